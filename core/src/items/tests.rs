//! Start and end of objects, for any division of the bytes.

use std::convert::Infallible;

use super::*;

const LIST: &str = r#"{ "kind":"List" , "metadata":{"items":[{"not":"these"}],"continue":"a\"b]"},
 "items" : [ {"a":"}]\"\\","b":[{},[1,"{"]]}, {} ,{"c":"ä\u007b"}
], "after":{"items":[{"nor":"this"}]} }
"#;

/// Returns the objects and the frame, with the bytes cut into chunks of `size`, the first one shorter by `offset`.
fn split(text: &str, size: usize, offset: usize, longest: usize) -> (Vec<String>, String) {
    let mut items = Items::new("items", longest);
    let mut found = Vec::new();
    let (first, rest) = text.as_bytes().split_at(offset.min(text.len()));
    for chunk in std::iter::once(first).chain(rest.chunks(size)) {
        let Ok(()) = items.push(chunk, |item| {
            found.push(match item {
                ListItem::Whole(bytes) => std::str::from_utf8(bytes).unwrap().to_owned(),
                ListItem::TooLong(length) => format!("too long: {length}"),
            });
            Ok::<_, Infallible>(())
        });
    }
    assert_eq!(items.length(), text.len());
    let frame = items.frame();
    (found, std::str::from_utf8(&frame).unwrap().to_owned())
}

#[test]
fn finds_the_same_objects_however_the_bytes_are_cut() {
    let want = [
        r#"{"a":"}]\"\\","b":[{},[1,"{"]]}"#,
        "{}",
        r#"{"c":"ä\u007b"}"#,
    ];
    for size in 1..LIST.len() {
        for offset in (0..size).step_by(7) {
            let (found, frame) = split(LIST, size, offset, 1000);
            assert_eq!(found, want, "chunks of {size} after {offset}");
            let frame: serde_json::Value = serde_json::from_str(&frame).unwrap();
            assert_eq!(frame["items"], serde_json::json!([]));
            assert_eq!(frame["metadata"]["continue"], "a\"b]");
            assert_eq!(frame["after"]["items"][0]["nor"], "this");
        }
    }
}

#[test]
fn an_object_that_is_too_long_costs_itself_only() {
    for size in 1..LIST.len() {
        let (found, frame) = split(LIST, size, 0, 17);
        assert_eq!(found, ["too long: 31", "{}", r#"{"c":"ä\u007b"}"#]);
        assert!(serde_json::from_str::<serde_json::Value>(&frame).is_ok());
    }
}

#[test]
fn what_is_no_list_of_objects_leaves_a_frame_that_is_none() {
    for (text, objects) in [
        ("", 0),
        ("<!doctype html>", 0),
        (r#"{"items":[{"a":1}"#, 1),
        (r#"{"items":[{"a":1},{"b"#, 1),
        (r#"{"items":[{"a":1},"b"]}"#, 1),
        (r#"{"items":[1,2]}"#, 0),
        (r#"{"items":[{}]}}"#, 1),
        (r#"[{"items":[{}]}]x"#, 0),
        (r#"{"items":[]],"a":[]}"#, 0),
    ] {
        for size in 1..=text.len().max(1) {
            let (found, frame) = split(text, size, 0, 1000);
            assert_eq!(found.len(), objects, "{text}");
            let read = serde_json::from_str::<serde_json::Value>(&frame).map(|frame| {
                let items = frame["items"].as_array().cloned();
                items.is_none_or(|items| !items.is_empty())
            });
            assert!(read.unwrap_or(true), "{text}: {frame}");
        }
    }
}

#[test]
fn what_stands_beside_the_objects_is_bounded() {
    let mut items = Items::new("items", 1000);
    let page = vec![b'x'; 1 << 20];
    let Ok(()) = items.push(&page, |_| Ok::<_, Infallible>(()));
    assert!(items.is_no_list());
    assert_eq!(items.frame().len(), FRAME_LIMIT);
    let deep = "[".repeat(1 << 20);
    assert!(split(&deep, 1000, 0, 1000).1.len() <= FRAME_LIMIT);
}

#[test]
fn lines_are_whole_or_not_given() {
    let text = "{\"a\":1}\n\n{\"b\":\"\\n\"}\r\n{\"long\":\"xxxxxxxxxxxxxxx\"}\n{\"c\":3}\n{\"cut";
    for size in 1..=text.len() {
        let mut lines = ObjectLines::new(16);
        let mut found = Vec::new();
        for chunk in text.as_bytes().chunks(size) {
            let Ok(()) = lines.push(chunk, |item| {
                found.push(match item {
                    ListItem::Whole(line) => String::from_utf8(line.trim_ascii().to_vec()).unwrap(),
                    ListItem::TooLong(length) => format!("too long: {length}"),
                });
                Ok::<_, Infallible>(())
            });
        }
        found.retain(|line| !line.is_empty());
        assert_eq!(
            found,
            ["{\"a\":1}", "{\"b\":\"\\n\"}", "too long: 26", "{\"c\":3}"],
            "{size}"
        );
    }
}

#[test]
fn one_that_gives_up_is_given_nothing_more() {
    let mut items = Items::new("items", 1000);
    let mut given = 0;
    let end = items.push(LIST.as_bytes(), |_| {
        given += 1;
        Err("enough")
    });
    assert_eq!((end, given), (Err("enough"), 1));
}
