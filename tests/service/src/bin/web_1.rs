//! The web server of the quote service, version 1.
fn main() -> anyhow::Result<()> {
    tribune_demo_service::web::run("1.0.0")
}
