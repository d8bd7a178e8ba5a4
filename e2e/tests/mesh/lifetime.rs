//! Meshes side by side, killed, handed to the command: nothing is left behind.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use servicefence_e2e::netns::with_prefix;
use servicefence_e2e::{PodSpec, node_namespace, state, tools};

use super::{TakeDown, program, up, words};

#[tokio::test(flavor = "multi_thread")]
async fn two_meshes_do_not_meet_and_a_dropped_one_leaves_nothing() {
    if !tools::can_run() {
        return;
    }
    let (one, two) = tokio::join!(up(), up());
    for mesh in [&one, &two] {
        let app = format!("books/{}", mesh.id());
        mesh.add_app(PodSpec::new(&app).app("reviews").http(8080))
            .await
            .unwrap();
        mesh.add_pod(PodSpec::new("shop/web")).await.unwrap();
    }
    for mesh in [&one, &two] {
        let reply = mesh.get("shop/web", "http://reviews.books:8080/").await;
        assert!(reply.is_from(&format!("books/{}", mesh.id())), "{reply}");
    }
    let id = two.id().to_owned();
    assert!(!with_prefix(&format!("sf{id}-")).is_empty());
    drop(two);
    assert!(nothing_is_left_of(&id));
    assert!(one.get("shop/web", "http://reviews.books:8080/").await.is_ok());
}

fn nothing_is_left_of(id: &str) -> bool {
    let configured = Path::new("/etc/netns").join(node_namespace(id).name());
    with_prefix(&format!("sf{id}-")).is_empty() && !state::exists(id) && !configured.exists()
}

/// Holds a mesh until it is killed; for the test below, which starts it as a process of its own.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a part of a_killed_run_is_cleaned_up"]
async fn hold_a_mesh() {
    let mesh = up().await;
    println!("\nholding {}", mesh.id());
    std::future::pending::<()>().await;
}

#[test]
fn a_killed_run_is_cleaned_up() {
    if !tools::can_run() {
        return;
    }
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "lifetime::hold_a_mesh", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let id = lines
        .find_map(|line| line.strip_prefix("holding ").map(str::to_owned))
        .unwrap();
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(
        !nothing_is_left_of(&id),
        "the killed run left nothing to clean up"
    );
    let cleaned = state::clean_stale().unwrap();
    // Another test's start may have been quicker.
    assert!(cleaned.contains(&id) || nothing_is_left_of(&id), "{cleaned:?}");
    assert!(nothing_is_left_of(&id));
}

#[test]
fn the_command_starts_a_mesh_that_stays_and_takes_it_down() {
    if !tools::can_run() {
        return;
    }
    let id = format!("c{}", std::process::id() % 1_000_000);
    let _down = TakeDown(id.clone());
    let mesh = |line: &str| {
        let output = Command::new(program())
            .args(words(line))
            .env("MESH_ID", &id)
            .output()
            .unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let (up, told) = mesh(&format!("up --id {id}"));
    assert!(up && told.contains("export KUBECONFIG="), "{told}");
    assert!(mesh("pod add books/reviews --http 8080").0);
    assert!(mesh("pod add shop/web").0);
    let (ok, told) = mesh("call shop/web http://reviews.books:8080/");
    assert!(
        ok && told.contains("200 in") && told.contains("from books/reviews, direct mTLS"),
        "{told}"
    );
    assert!(!mesh("call shop/web http://nobody.books:8080/").0);
    let (ok, told) = mesh("status");
    assert!(
        ok && told.contains("pod shop/web") && told.contains("service books/reviews"),
        "{told}"
    );
    assert!(mesh("pod remove books/reviews").0);
    assert!(mesh("down").0);
    assert!(nothing_is_left_of(&id));
}
