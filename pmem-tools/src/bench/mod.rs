//! x
/// x
#[derive(clap::Args, Debug)]
pub(crate) struct Bench {}
impl Bench {
    pub(crate) fn run(self, _o: &mut crate::output::Output) -> anyhow::Result<std::process::ExitCode> {
        unimplemented!()
    }
}
