//! Interactive sessions over TCP.

use tests::script::run;

#[test]
fn sessions_within_the_machine() {
    let outcome = run("sessions_within_the_machine", include_str!("sessions.py"), &[], "", 300);
    outcome.expect_status(0);
    outcome.expect_output("well\n");
}
