//! The quote daemon of the quote service, version 1.
fn main() -> anyhow::Result<()> {
    tribune_demo_service::quoted::run("1.0.0")
}
