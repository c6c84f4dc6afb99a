//! The web server of the quote service, version 2.
fn main() -> anyhow::Result<()> {
    tribune_demo_service::web::run("2.0.0")
}
