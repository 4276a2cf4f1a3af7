//! x
/// x
#[derive(clap::Args, Debug)]
pub(crate) struct Demo {}
impl Demo {
    pub(crate) fn run(self, _o: &mut crate::output::Output) -> anyhow::Result<std::process::ExitCode> {
        unimplemented!()
    }
}
/// x
#[derive(clap::Args, Debug)]
pub(crate) struct DemoWriter {}
impl DemoWriter {
    pub(crate) fn run(self, _o: &mut crate::output::Output) -> anyhow::Result<std::process::ExitCode> {
        unimplemented!()
    }
}
