//! Orders that the types forbid.

#[test]
fn forbidden_orders_do_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
