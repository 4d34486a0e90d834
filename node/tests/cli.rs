//! The command line as a stranger meets it: real binary, exit codes, messages.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{
    net::TcpListener,
    path::Path,
    process::{Command, Output},
};

fn heliograph(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heliograph"));
    command.args(args).output().unwrap()
}

/// Exit code and standard error, with the directory's name taken out.
fn refusal(dir: &Path, args: &[&str]) -> (i32, String) {
    let output = heliograph(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), stderr.replace(&format!("{}/", dir.display()), ""))
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

#[test]
fn init_tls_makes_what_serve_accepts_and_refuses_to_overwrite() {
    let dir = tempfile::tempdir().unwrap();
    let tls = text(&dir.path().join("tls"));
    let init = ["init-tls", "--dir", &tls, "--cluster-name", "t", "--node", "1=127.0.0.1"];
    let output = heliograph(&init);
    assert!(output.status.success());
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.contains("node-1.crt, .key"), "{stdout}");
    assert!(stdout.contains("heliograph serve --config"), "{stdout}");

    let (code, stderr) = refusal(dir.path(), &init);
    assert_eq!(code, 3);
    assert!(stderr.starts_with("heliograph: tls/cluster.toml exists already"), "{stderr}");

    // The printed advice, followed.
    let config = dir.path().join("tls/heliograph.toml");
    let roster = std::fs::read_to_string(dir.path().join("tls/cluster.toml")).unwrap();
    let advice = stdout.split("[node]").nth(1).unwrap().split("  3. ").next().unwrap();
    let advice: String = advice.lines().map(|line| format!("{}\n", line.trim())).collect();
    std::fs::write(&config, format!("{roster}\n[node]{advice}")).unwrap();
    let check = ["serve", "--check", "--config", &text(&config)];
    let (code, stderr) = refusal(dir.path(), &check);
    assert_eq!(code, 3, "three replicas need three members");
    assert!(stderr.contains("`cluster.replicas` is 3, but"), "{stderr}");
    let single =
        std::fs::read_to_string(&config).unwrap().replace("[cluster]", "[cluster]\nreplicas = 1");
    std::fs::write(&config, single).unwrap();
    let (code, stderr) = refusal(dir.path(), &check);
    assert_eq!((code, stderr.as_str()), (0, ""));
}

#[test]
fn add_node_signs_one_more() {
    let dir = tempfile::tempdir().unwrap();
    let tls = text(&dir.path().join("tls"));
    assert!(heliograph(&["init-tls", "--dir", &tls, "--node", "1=a"]).status.success());
    let output = heliograph(&["init-tls", "--dir", &tls, "--add-node", "2=b"]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    assert!(stdout.contains("heliograph cluster join 2 --address b:7400"), "{stdout}");
    assert!(dir.path().join("tls/node-2.key").exists());
}

#[test]
fn wrong_command_lines_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let tls = text(&dir.path().join("tls"));
    let cases: [(&[&str], &str); 6] = [
        (&["init-tls", "--dir", &tls, "--node", "one"], "write it as ID=HOST"),
        (&["init-tls", "--dir", &tls, "--node", "0=a"], "must be a number from 1 to 65535"),
        (&["init-tls", "--dir", &tls], "--node"),
        (&["dev", "--nodes", "0"], "0 is not in 1..=9"),
        (&["dev", "--http-port", "0"], "0 is not in 1..=65535"),
        (&["serve"], "--config <FILE>"),
    ];
    for (args, expected) in cases {
        let (code, stderr) = refusal(dir.path(), args);
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    }
}

#[test]
fn serve_names_a_missing_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let config = text(&dir.path().join("none.toml"));
    let (code, stderr) = refusal(dir.path(), &["serve", "--config", &config]);
    assert_eq!(code, 3);
    assert!(
        stderr.starts_with("heliograph: cannot read the configuration file none.toml: No such")
    );
}

#[test]
fn dev_refuses_a_taken_port_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let data = text(&dir.path().join("data"));
    let args = ["dev", "--nodes", "1", "--data-dir", &data, "--http-port", &port];
    let (code, stderr) = refusal(dir.path(), &args);
    assert_eq!(code, 5);
    assert!(stderr.contains(&format!("node 1 needs port {port} for HTTP")), "{stderr}");
    assert!(stderr.contains("choose other ports with --http-port"), "{stderr}");
    assert!(!dir.path().join("data/node-1/log").exists());
}
