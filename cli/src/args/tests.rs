use super::*;
use crate::args::update::OnFailureArg;

fn read(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_read(std::iter::once("tribune").chain(line.split_whitespace()).map(std::ffi::OsString::from))
}

fn submit(line: &str) -> SubmitArgs {
    match read(line).unwrap().command {
        Command::Update(UpdateCommand::Submit(args)) => args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_arguments_are_well_defined() {
    Cli::command().debug_assert();
}

#[test]
fn a_submission_takes_an_image_or_packages_and_targets() {
    let args = submit("update submit fleet.timg");
    assert_eq!(args.targets.image, Some("fleet.timg".into()));
    assert!(args.targets.package.is_empty() && !args.detach);

    let args = submit(
        "update submit --package billing@2.3.1 --package rates --node n1 --node n2 --class edge --strategy together \
         --on-failure hold --decide-within 1h --skip-away --accept-discrepancy ledger.api --detach",
    );
    assert_eq!(args.targets.package.len(), 2);
    assert_eq!(args.targets.node.len(), 2);
    assert!(matches!(args.options.on_failure, OnFailureArg::Hold));
    let options: tribune_raft_store::model::UpdateOptions = (&args.options).into();
    assert_eq!(options.decide_within, Span::from_secs(3600));
    assert!(options.skip_away && !options.again && options.accept_discrepancies.len() == 1);

    assert!(read("update submit").is_err(), "neither an image nor a package");
    assert!(read("update submit --package Billing").is_err());
    assert!(read("update submit x.timg --decide-within 1w").is_err());
}

#[test]
fn a_decision_is_exactly_one_and_force_needs_a_reason_and_what_was_seen() {
    for good in [
        "update decide u7 --force --seen 4 --why checked",
        "update decide u7 --only n1 n2",
        "update decide u7 --only n1,n2 --watch",
        "update decide u7 --without n3",
        "update decide u7 --ask-again",
        "update decide u7 --abort",
    ] {
        assert!(read(good).is_ok(), "{good}");
    }
    for bad in [
        "update decide u7",
        "update decide 7 --abort",
        "update decide u7 --force --seen 4",
        "update decide u7 --force --why checked",
        "update decide u7 --why checked",
        "update decide u7 --abort --ask-again",
        "update decide u7 --only n1 --without n2",
        "update decide u7 --only",
    ] {
        assert!(read(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_regress_names_where() {
    assert!(read("regress --node n1").is_ok());
    assert!(read("regress --class edge --package billing@1.0.0 --force --why broken").is_ok());
    match read("regress --node n1 --accept-discrepancy ledger.api").unwrap().command {
        Command::Regress(args) => assert_eq!(args.accept_discrepancy.len(), 1),
        other => panic!("{other:?}"),
    }
    match read("regress --node n1 --package billing@1.0.0 --again").unwrap().command {
        Command::Regress(args) => assert!(args.again),
        other => panic!("{other:?}"),
    }
    assert!(read("regress").is_err());
    assert!(read("regress --node n1 --force").is_err());
}

#[test]
fn o_is_a_format_and_for_builds_a_file() {
    let cli = read("node list -o json").unwrap();
    assert_eq!(cli.global.format(), Format::Json);
    let cli = read("package build -o out.tpkg -o json").unwrap();
    assert_eq!((cli.global.format(), cli.global.file()), (Format::Json, Some(Path::new("out.tpkg"))));
    assert_eq!(read("package build").unwrap().global.format(), Format::Table);
    assert!(read("image build -o f.timg --targets t.toml a.tpkg b.tpkg").is_ok());
    assert!(read("image build a.tpkg").is_err(), "no file to write");
    assert!(read("node list -o yaml").is_err());
}

#[test]
fn a_package_is_removed_by_name_and_version_and_joined_into_a_file() {
    assert!(read("package remove billing@1.0.0").is_ok());
    assert!(read("package remove billing").is_err(), "all versions at once?");
    assert!(read("package retain billing --last 3").is_ok());
    assert!(read("package retain billing").is_err() && read("package retain billing --last 0").is_err());
    assert!(read("package merge a.tpkg b.tpkg -o c.tpkg").is_ok());
    for bad in ["package merge a.tpkg b.tpkg", "package merge a.tpkg -o c.tpkg", "package merge a.tpkg b.tpkg -o json"] {
        assert!(read(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_peer_is_an_address_with_an_identity() {
    let id = tribune_p2p::Identity::generate().peer_id();
    let cli = read(&format!("--peer /ip4/10.0.0.5/tcp/7400/p2p/{id} --key k status")).unwrap();
    assert_eq!(cli.global.peer[0].id, id);
    assert_eq!(cli.global.peer[0].full_address().to_string(), format!("/ip4/10.0.0.5/tcp/7400/p2p/{id}"));
    assert!(read("--peer /ip4/10.0.0.5/tcp/7400 status").is_err(), "whose key would be checked?");
}

#[test]
fn labels_are_keys_and_values() {
    assert!(read("node label n1 role=edge site=oslo --remove zone --required").is_ok());
    assert!(read("node label n1 --remove zone").is_ok());
    for bad in ["node label n1", "node label n1 role", "node label n1 role=", "node label n1 Role=edge"] {
        assert!(read(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_join_token_is_never_an_argument() {
    let text = Cli::command().find_subcommand_mut("join").unwrap().render_long_help().to_string();
    assert!(text.contains("--token-file") && !text.contains("--token "), "{text}");
}

#[test]
fn nothing_is_never_asked_for() {
    for bad in ["update list -n 0", "events -n 0", "process logs a/b -n 0", "status --timeout 0s", "status --timeout 0ms"] {
        assert!(read(bad).is_err(), "{bad}");
    }
    assert!(read("update list -n 1 --timeout 1ms").is_ok());
}

#[test]
fn wrong_arguments_are_told_in_the_format_that_was_asked_for() {
    let format = |line: &str| {
        let args: Vec<_> = line.split_whitespace().map(std::ffi::OsString::from).collect();
        wrong::wanted_format(&args)
    };
    for json in
        ["-o json nosuch", "nosuch -ojson", "nosuch -o=json", "nosuch --output json", "events -fo json", "x --output=json"]
    {
        assert_eq!(format(json), Format::Json, "{json}");
    }
    for table in ["nosuch", "-o json nosuch -o table", "nosuch -- -o json", "package build -o out.tpkg", "json -o"] {
        assert_eq!(format(table), Format::Table, "{table}");
    }
    let problem = wrong::problem(&read("package show svc@^1").unwrap_err());
    assert_eq!(problem.exit.number(), 2);
    assert!(problem.what.starts_with("invalid value 'svc@^1' for '<PACKAGE>'") && problem.todo.contains("--help"), "{problem:?}");
    for short in ["package", "-o json"] {
        assert_eq!(wrong::problem(&read(short).unwrap_err()).what, "a command is missing");
    }
}

#[test]
fn a_registered_process_is_found_in_one_way_and_its_hook_is_no_shells() {
    let parse = |line: &str| Cli::try_parse_from(["tribune", "process", "register"].into_iter().chain(line.split('|')));
    assert!(parse("clock|--pid-file|/run/clock.pid|--depends-on|a/b@^1|--consumes|x.api@1|--hook|/bin/ask clock").is_ok());
    assert!(parse("clock|--unit|clock.service|--silent|accept|--within|2s").is_ok());
    for bad in [
        "clock",
        "clock|--unit|clock.service|--pid-file|/run/clock.pid",
        "a/clock|--unit|clock.service",
        "clock|--unit|clock.service|--hook|ask",
        "clock|--unit|clock.service|--hook|/bin/sh -c 'exit 1'",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}
