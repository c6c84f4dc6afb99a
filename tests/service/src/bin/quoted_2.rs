//! The quote daemon of the quote service, version 2.
fn main() -> anyhow::Result<()> {
    tribune_demo_service::quoted::run("2.0.0")
}
