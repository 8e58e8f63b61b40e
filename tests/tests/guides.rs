//! The guides: their examples are read by the programs that they are for, their commands exist, their links lead somewhere.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use firn_testkit::nix::Nix;
use firn_testkit::{Result, firn, firnd};
use firn_tests::shipped::{files_below, read, workspace};
use yaml_rust2::YamlLoader;

/// The guides that have to be there.
const GUIDES: [&str; 7] = [
    "gateway.md",
    "github-actions.md",
    "gitlab-ci.md",
    "hydra.md",
    "nixos-builders.md",
    "remote-builders.md",
    "sources.md",
];

/// Returns the examples of one language in a page.
fn examples(page: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut current: Option<(bool, String)> = None;
    for line in page.lines() {
        match (&mut current, line.strip_prefix("```")) {
            (None, Some(this)) => current = Some((this == language, String::new())),
            (None, None) => {}
            (Some(_), Some(_)) => {
                let (wanted, text) = current.take().expect("it is open");
                found.extend(wanted.then_some(text));
            }
            (Some((_, text)), None) => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    assert!(current.is_none(), "an example has no end");
    found
}

fn guides() -> Vec<(String, String)> {
    let mut names = Vec::new();
    files_below(&workspace().join("docs/guides"), "md", &mut names);
    let mut names: Vec<String> =
        names.iter().map(|path| path.file_name().expect("a name").to_string_lossy().into_owned()).collect();
    names.sort();
    assert_eq!(names, GUIDES);
    names.into_iter().map(|name| (name.clone(), read(format!("docs/guides/{name}")))).collect()
}

#[test]
fn the_guides_nix_parses() -> Result<()> {
    for nix in Nix::require_all() {
        let store = nix.store()?;
        let mut count = 0;
        for (name, page) in guides() {
            for example in examples(&page, "nix") {
                let file = store.write("example.nix", &example)?;
                let ran = store.run("nix-instantiate", [Path::new("--parse"), &file])?;
                assert!(ran.succeeded(), "{name}: {}\n{example}", ran.stderr);
                count += 1;
            }
        }
        assert!(count >= 4, "{count} examples");
    }
    Ok(())
}

#[test]
fn the_guides_yaml_parses() {
    let mut jobs = 0;
    for (name, page) in guides() {
        for example in examples(&page, "yaml") {
            let documents =
                YamlLoader::load_from_str(&example).unwrap_or_else(|error| panic!("{name}: {error}\n{example}"));
            assert_eq!(documents.len(), 1, "{name}");
            let top = documents[0].as_hash().expect("a mapping");
            // A key twice is an error of the parser; one indented wrongly ends up elsewhere.
            jobs += top.values().filter(|value| !value["script"].is_badvalue()).count();
            jobs += documents[0]["jobs"]["build"]["steps"].as_vec().map_or(0, Vec::len);
        }
    }
    assert_eq!(jobs, 3 + 4);
}

/// Returns the shell commands of a page, from examples and from CI files: one a line.
fn commands(page: &str) -> Vec<String> {
    let mut found: Vec<String> =
        examples(page, "sh").iter().flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    for example in examples(page, "yaml") {
        found.extend(
            example.lines().map(|line| line.trim().trim_start_matches("- ").trim_start_matches("run: ").to_owned()),
        );
    }
    found
}

#[test]
fn the_guides_commands_are_there() -> Result<()> {
    let mut tried = BTreeSet::new();
    for (name, page) in guides() {
        for example in examples(&page, "sh") {
            let ran = Command::new("bash").args(["-n", "-c", &example]).status().expect("bash runs");
            assert!(ran.success(), "{name}: {example}");
        }
        for command in commands(&page) {
            let words: Vec<&str> = command.split_whitespace().collect();
            let Some((program, arguments)) = without_prefix(&words).split_first() else { continue };
            let binary = match *program {
                "firn" => firn::binary()?,
                "firnd" => firnd::binary()?,
                _ => continue,
            };
            let ours: Vec<&str> = arguments.iter().copied().take_while(|word| !matches!(*word, "--" | ">")).collect();
            let is_name =
                |word: &&str| word.starts_with(|c: char| c.is_ascii_lowercase()) && !word.contains(['/', ':', '.']);
            let subcommands: Vec<&str> = ours.iter().copied().take_while(is_name).take(2).collect();
            check_help(&binary, &subcommands, &ours, &format!("{name}: {command}"));
            tried.insert(format!("{program} {}", subcommands.join(" ")));
        }
    }
    assert!(tried.len() >= 6, "{tried:?}");
    Ok(())
}

#[test]
fn the_guides_examples_have_what_they_use() {
    for (name, page) in guides() {
        for example in examples(&page, "sh") {
            // The agent of the system is root's.
            for line in example.lines().filter(|line| line.contains("firn watch-store ")) {
                assert!(line.contains("sudo firn "), "{name}: {line}");
            }
            let builds = example.lines().any(|line| line.contains("nix-build") && !line.contains("--no-out-link"));
            assert!(!example.contains("./result") || builds, "{name}: {example}");
        }
    }
}

/// Returns a command without what only says where and as whom it runs.
fn without_prefix<'a, 'b>(words: &'a [&'b str]) -> &'a [&'b str] {
    match words {
        ["sudo", "-u", _, rest @ ..] | ["ssh", _, rest @ ..] | ["sudo", rest @ ..] => without_prefix(rest),
        _ => words,
    }
}

/// Asserts that a command has a page of help, and that the page names each option used.
fn check_help(binary: &Path, subcommands: &[&str], used: &[&str], whence: &str) {
    let mut help = None;
    // `main` in `cache show main` is no command.
    for count in (1..=subcommands.len()).rev() {
        let ran = Command::new(binary).args(&subcommands[..count]).arg("--help").output().expect("runs");
        if ran.status.success() {
            help = Some(String::from_utf8(ran.stdout).expect("UTF-8"));
            break;
        }
    }
    let help = help.unwrap_or_else(|| panic!("{whence}: there is no such command"));
    for option in used.iter().filter(|word| word.starts_with("--")) {
        let name = option.split('=').next().unwrap_or(option);
        assert!(help.contains(name), "{whence}: there is no {name} in\n{help}");
    }
}

#[test]
fn pages_link_to_pages_and_headings_that_there_are() {
    let mut pages = Vec::new();
    files_below(&workspace().join("docs"), "md", &mut pages);
    pages.push(workspace().join("README.md"));
    for page in pages {
        let text = read(&page);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().expect("a folder").join(file) };
            assert!(target.exists(), "{} links to {link}", page.display());
            let slug = |line: &str| {
                let plain = line.trim_start_matches('#').trim().to_lowercase();
                plain
                    .chars()
                    .filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-')
                    .collect::<String>()
                    .replace(' ', "-")
            };
            let found =
                heading.is_empty() || read(&target).lines().any(|line| line.starts_with('#') && slug(line) == heading);
            assert!(found, "{} links to {link}", page.display());
        }
    }
}
