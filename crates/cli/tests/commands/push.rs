use serde_json::Value;

use crate::support::{Home, Server, TOKEN};

#[test]
fn requests_before_the_push_are_counted() {
    let server = Server::firnd(|_| ());
    let mut home = Home::new();
    home.set("FIRN_TOKEN", TOKEN);
    // No path at all: what is asked before is everything there is.
    let ran = home.firn_with(&["push", "--json", "--stdin", &server.url()], "").expect(0);
    let events: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let finished = events.last().expect("a last event");
    assert_eq!(finished["event"], "finished", "{ran:?}");
    let asked: Vec<String> = server.seen().into_iter().map(|request| request.target).collect();
    assert_eq!(asked, ["/api/v1/capabilities", "/api/v1/caches/main"]);
    let wire = &finished["wire"];
    assert_eq!(wire["requests"], 2);
    assert!(wire["received_body_bytes"].as_u64() > Some(100) && wire["heads_estimated_bytes"].as_u64() > Some(100));
    let sum: u64 = ["sent_body_bytes", "received_body_bytes", "heads_estimated_bytes"]
        .iter()
        .map(|name| wire[*name].as_u64().expect("a number"))
        .sum();
    assert_eq!(finished["wire_bytes"], sum);
}
