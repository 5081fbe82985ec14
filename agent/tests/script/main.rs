//! The script driver against real programs, each doing its worst.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod game;
mod orphan;

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use goperation::{EndpointName, Reason, Result};
use goperation_agent::{
    EntityKey,
    endpoint::{Invocation, Subject},
    ports::{Protocol, Reserved},
};
use serde_json::{Value, json};

use crate::game::{FOREVER, end, exists, game, runs, text, until};

#[tokio::test]
async fn input_comes_on_stdin_and_the_result_from_stdout() {
    let game = game("exec cat", "");
    let args = json!({"n": 9_007_199_254_740_992u64, "t": "ü\n", "l": [1.5, null]});
    let result = game.run_with(game.invocation(args.clone())).await.unwrap();
    let home = game.path("");
    assert_eq!(
        Value::Object(result),
        json!({
            "method": "run", "endpoint": "game", "args": args,
            "home": home.to_str().unwrap().trim_end_matches('/'),
            "message_id": game.message_id.as_str(),
        })
    );
}

#[tokio::test]
async fn an_entity_comes_with_its_home_and_ports() {
    let game =
        game("echo \"$(pwd) $GOP_ENTITY $GOP_PORT_QUERY_UDP $GOP_PORT_2\" >&2; exec cat", "");
    let endpoint = game.endpoints.get("game").unwrap();
    endpoint.create_home(7).await.unwrap();
    let key = EntityKey { endpoint: EndpointName::parse("e", "game").unwrap(), number: 7 };
    let port = |port, protocol, name: &str| Reserved {
        port,
        protocol,
        entity: key.clone(),
        name: name.to_owned(),
        since: 0,
    };
    let ports = vec![port(7001, Protocol::Udp, "query-udp"), port(7002, Protocol::Both, "")];
    let subject = Some(Subject { entity: 7, ports });
    let result =
        game.run_with(Invocation { subject: subject.clone(), ..game.invocation(json!({})) }).await;
    let result = result.unwrap();
    assert_eq!(result["entity"], 7);
    assert_eq!(result["home"], game.path("7").to_str().unwrap());
    assert_eq!(
        result["ports"],
        json!([
            {"name": "query-udp", "port": 7001, "protocol": "udp"},
            {"name": "", "port": 7002, "protocol": "both"},
        ])
    );

    let game2 = crate::game::game(
        "echo \"$(pwd) $GOP_ENTITY $GOP_PORT_QUERY_UDP $GOP_PORT_2\" >&2; exit 1",
        "",
    );
    game2.endpoints.get("game").unwrap().create_home(7).await.unwrap();
    let error =
        game2.run_with(Invocation { subject, ..game2.invocation(json!({})) }).await.unwrap_err();
    let home = game2.path("7");
    assert_eq!(error.metadata["stderr"], format!("{} 7 7001 7002\n", home.display()));
    assert_eq!(error.metadata["entity"], "7");
}

#[tokio::test]
async fn arguments_are_not_words_of_a_shell_and_the_environment_is_clean() {
    let game = game("printf '%s|%s\\n' \"$1\" \"$2\" >&2; env | sort >&2; exit 1", "");
    let error = game.fails().await;
    let mut lines = error.metadata["stderr"].lines();
    assert_eq!(lines.next(), Some("a b|$HOME"));
    let names: Vec<_> =
        lines.filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    // PWD is the shell's own.
    let expected = [
        "GOP_AGENT",
        "GOP_ENDPOINT",
        "GOP_HOME",
        "GOP_MESSAGE_ID",
        "GOP_METHOD",
        "GOP_PROGRESS",
        "HOME",
        "LANG",
        "MODE",
        "PATH",
        "PWD",
    ];
    assert_eq!(
        names
            .into_iter()
            .filter(|name| *name != "_" && *name != "OLDPWD" && *name != "SHLVL")
            .collect::<Vec<_>>(),
        expected
    );
}

#[tokio::test]
async fn no_output_is_an_empty_object() {
    assert!(game("exit 0", "").run().await.unwrap().is_empty());
    assert!(game("echo; echo '  '", "").run().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_exit_code_is_told_with_the_ends_of_both_outputs() {
    let error =
        game("echo '{\"a\":1}'; echo first >&2; echo no disk >&2; exit 3", "").fails().await;
    assert_eq!(error.message, "run of game: ended with exit code 3: no disk");
    assert_eq!(error.metadata["exit_code"], "3");
    assert_eq!(error.metadata["stderr"], "first\nno disk\n");
    assert_eq!(error.metadata["stdout"], "{\"a\":1}\n");
}

#[tokio::test]
async fn a_signal_is_told() {
    let error = game("kill -11 $$", "").fails().await;
    assert_eq!(error.metadata["signal"], "11");
    assert!(error.message.contains("was ended by signal 11"), "{error}");
}

#[tokio::test]
async fn what_is_not_an_object_is_refused() {
    for (output, said) in [
        ("hello", "is not JSON"),
        ("[1]", "is not a JSON object"),
        ("{} {}", "is not JSON: trailing"),
        ("{\"a\":", "is not JSON: EOF"),
        ("{\"id\": 9007199254740993}", "cannot be passed on: result.id: is an integer beyond"),
        ("{\"id\": -90071992547409930000000000}", "cannot be passed on: result.id: is an integer"),
    ] {
        let error = game(&format!("printf '%s' '{output}'"), "").fails().await;
        assert!(error.message.contains(said), "{output}: {error}");
        assert!(error.metadata["stdout"].contains(output));
    }
    let error = game("printf '\\377\\376{}'", "").fails().await;
    assert!(error.message.contains("is not JSON"), "{error}");
}

#[tokio::test]
async fn stderr_is_bounded_to_its_end() {
    let script = "i=0; while [ $i -lt 30000 ]; do echo \"line $i\" >&2; i=$((i+1)); done; exit 1";
    let error = game(script, "").fails().await;
    assert!(error.metadata["stderr"].ends_with("line 29999\n"));
    assert!(error.metadata["stderr"].len() <= 4096);
}

#[tokio::test]
async fn input_that_is_not_read_is_no_failure() {
    // More than a pipe holds.
    let args = json!({"big": "x".repeat(1 << 20)});
    let game = game("exec <&-; echo '{\"ok\":true}'", "");
    assert_eq!(game.run_with(game.invocation(args)).await.unwrap()["ok"], true);
}

#[tokio::test]
async fn large_input_and_output_do_not_wait_for_each_other() {
    let args = json!({"big": "x".repeat(900_000)});
    let game = game("exec cat", "");
    let result = game.run_with(game.invocation(args)).await.unwrap();
    assert_eq!(text(result["args"].as_object().unwrap(), "big").len(), 900_000);
}

#[tokio::test]
async fn the_limit_kills_the_whole_group() {
    let script =
        format!("trap '' TERM INT HUP; {FOREVER} & echo $! >child; echo $$ >own; wait; {FOREVER}");
    let game = game(&script, ", timeout = \"3s\"");
    let began = Instant::now();
    let error = game.fails().await;
    assert!(error.message.contains("timed out after 3s and was killed"), "{error}");
    assert!((3..30).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert!(!exists(game.pid("own").await), "reaped");
    let child = game.pid("child").await;
    until("the child is gone", || !runs(child)).await;
}

#[tokio::test]
async fn a_flood_is_stopped() {
    let game = game("echo $$ >own; exec yes", ", max_output = 100000");
    let error = game.fails().await;
    assert!(error.message.contains("wrote more than 100000 bytes"), "{error}");
    assert!(error.metadata["stdout"].len() <= 1024);
    assert!(!exists(game.pid("own").await), "reaped");
}

#[tokio::test]
async fn output_up_to_the_bound_is_taken() {
    let game = game("printf '{\"a\":\"xy\"}'", ", max_output = 10");
    assert_eq!(text(&game.run().await.unwrap(), "a"), "xy");
    let game = crate::game::game("printf '{\"a\":\"xyz\"}'", ", max_output = 10");
    assert!(game.fails().await.message.contains("wrote more than 10 bytes"));
}

#[tokio::test]
async fn a_child_that_keeps_the_output_does_not_hang_the_method() {
    let game = game(&format!("{FOREVER} & echo $! >child; echo '{{\"ok\":1}}'"), "");
    let began = Instant::now();
    assert_eq!(game.run().await.unwrap()["ok"], 1, "the method itself ended well");
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    let child = game.pid("child").await;
    until("the child is gone", || !runs(child)).await;
}

#[tokio::test]
async fn a_child_in_its_own_session_that_keeps_the_output_does_not_hang_the_method() {
    let game = game(&format!("setsid {FOREVER} & echo $! >child; echo '{{\"ok\":1}}'"), "");
    let began = Instant::now();
    assert_eq!(game.run().await.unwrap()["ok"], 1);
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    let child = game.pid("child").await;
    end(child);
}

#[tokio::test]
async fn a_child_that_lets_go_of_the_output_lives_on() {
    let game = game(&format!("{FOREVER} <&- >/dev/null 2>&1 & echo $! >child; echo '{{}}'"), "");
    game.run().await.unwrap();
    let child = game.pid("child").await;
    assert!(runs(child));
    end(child);
}

#[tokio::test]
async fn dropping_the_run_kills_the_group_and_leaves_no_zombie() {
    let game = game(&format!("{FOREVER} & echo $! >child; echo $$ >own; wait"), "");
    let endpoint = game.endpoints.get("game").unwrap();
    let running = endpoint.start(game.invocation(json!({}))).await.unwrap();
    let (own, child) = {
        // Dropped in the middle of the wait, as a cancelled task does it.
        let waiting = running.wait();
        tokio::select! {
            ended = waiting => panic!("{ended:?}"),
            pids = async { (game.pid("own").await, game.pid("child").await) } => pids,
        }
    };
    until("the child is gone", || !runs(child)).await;
    until("the program is reaped", || !exists(own)).await;
}

#[tokio::test]
async fn no_descriptor_is_inherited() {
    let game = game("ls /proc/self/fd >&2; exit 1", "");
    let _listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let _file = fs::File::create(game.dir.path().join("file")).unwrap();
    let _other = game.endpoints.get("game").unwrap();
    // Another method's pipes, at the same time.
    let other = crate::game::game(FOREVER, "");
    let _running =
        other.endpoints.get("game").unwrap().start(other.invocation(json!({}))).await.unwrap();
    let error = game.fails().await;
    // 3 is the folder that ls reads.
    assert_eq!(error.metadata["stderr"], "0\n1\n2\n3\n");
}

#[tokio::test]
async fn many_at_once_leave_nothing() {
    let game = game("echo $$ >>pids; exec cat", "");
    let runs = (0..50).map(|n| game.run_with(game.invocation(json!({"n": n}))));
    for (n, result) in futures::future::join_all(runs).await.into_iter().enumerate() {
        assert_eq!(result.unwrap()["args"]["n"], n);
    }
    let pids = fs::read_to_string(game.path("pids")).unwrap();
    assert_eq!(pids.lines().count(), 50);
    for pid in pids.lines() {
        assert!(!exists(pid.parse().unwrap()), "reaped");
    }
}

#[tokio::test]
async fn what_cannot_be_started_is_told() {
    let game = game("exit 0", "");
    let subject = Some(Subject { entity: 9, ports: Vec::new() });
    let error =
        game.run_with(Invocation { subject, ..game.invocation(json!({})) }).await.unwrap_err();
    assert_eq!(error.reason, Reason::MethodFailed);
    assert!(error.message.contains("could not be started in"), "no home: {error}");
}

#[tokio::test]
async fn what_is_not_declared_is_refused() {
    let game = game("exit 0", "");
    let endpoints = &game.endpoints;
    let reason = |result: Result<bool>| result.unwrap_err().reason;
    assert_eq!(reason(endpoints.is_read_only("db", "run")), Reason::NamespaceNotFound);
    for method in ["other", "create", "status"] {
        assert_eq!(reason(endpoints.is_read_only("game", method)), Reason::MethodNotFound);
    }
    for (method, read_only, idempotent) in [
        ("run", false, false),
        ("create_entity", false, false),
        ("delete_entity", false, true),
        ("status_entity", true, true),
    ] {
        assert_eq!(endpoints.is_read_only("game", method).unwrap(), read_only, "{method}");
        assert_eq!(endpoints.is_idempotent("game", method), idempotent, "{method}");
    }
    let wire = endpoints.to_wire();
    let names: Vec<_> = wire[0].methods.iter().map(|method| method.name.as_str()).collect();
    assert_eq!((wire[0].name.as_str(), wire[0].driver.as_str()), ("game", "script"));
    assert_eq!(names, ["create", "run", "status"]);
}

#[tokio::test]
async fn homes_are_made_and_removed_without_following_links() {
    let game = game("exit 0", "");
    let endpoint = game.endpoints.get("game").unwrap();
    let outside = game.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "").unwrap();
    let link = |at: PathBuf| std::os::unix::fs::symlink(&outside, at).unwrap();

    endpoint.remove_home(1).await.unwrap();
    endpoint.create_home(1).await.unwrap();
    endpoint.create_home(1).await.unwrap();
    fs::create_dir_all(game.path("1/deep/er")).unwrap();
    link(game.path("1/deep/link"));
    link(game.path("2"));
    assert!(endpoint.create_home(2).await.is_err(), "a link is no home");
    endpoint.remove_home(1).await.unwrap();
    endpoint.remove_home(2).await.unwrap();
    assert!(!game.path("1").exists() && !game.path("2").exists());

    fs::remove_dir(game.path("")).unwrap();
    fs::create_dir(outside.join("3")).unwrap();
    link(game.dir.path().join("work/game"));
    assert!(endpoint.remove_home(3).await.is_err());
    assert!(endpoint.create_home(4).await.is_err());
    assert!(outside.join("precious").exists() && outside.join("3").exists());
    assert!(!outside.join("4").exists());
}
