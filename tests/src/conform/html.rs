//! The results as one page without external parts. The tables are in the page itself; its script only hides rows.

use crate::conform::catalogue::{self, Entry};
use crate::conform::outcome::{CheckResult, Outcome, State, Suite, TestbedResult};
use std::fmt::{self, Display, Write};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Text that HTML takes for text, in attributes too.
struct Text<T>(T);

impl<T: Display> Display for Text<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for char in self.0.to_string().chars() {
            match char {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                _ => f.write_char(char)?,
            }
        }
        Ok(())
    }
}

/// The page.
pub fn page(suite: &Suite) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write_page(&mut out, suite);
    out
}

fn write_page(out: &mut String, suite: &Suite) -> fmt::Result {
    out.write_str("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n")?;
    out.write_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n")?;
    write!(out, "<title>Ringside conformance</title>\n<style>\n{STYLE}</style></head>\n<body>\n")?;
    let verdict = if suite.succeeded() { "pass" } else { "fail" };
    let ran = suite.ran().count();
    let checks = suite.ran().map(|testbed| testbed.checks.len()).max().unwrap_or(0);
    let word = if suite.succeeded() { "nothing unexpected failed" } else { "something failed" };
    writeln!(
        out,
        "<header><h1>Ringside conformance</h1><p><b class=\"mark {verdict}\">{word}</b> {checks} checks on {ran} of {} testbeds, catalogue {}</p></header>",
        suite.testbeds.len(),
        Text(&catalogue::version())
    )?;
    matrix(out, suite)?;
    testbeds(out, suite)?;
    checks_section(out, suite)?;
    write!(out, "<script>\n{SCRIPT}</script>\n</body></html>\n")
}

fn matrix(out: &mut String, suite: &Suite) -> fmt::Result {
    out.write_str("<section><h2>Matrix</h2><div class=\"wide\"><table id=\"matrix\"><thead><tr><th>checks</th>")?;
    for testbed in suite.ran() {
        write!(out, "<th title=\"{}\">{}</th>", Text(&testbed.title), Text(&testbed.name))?;
    }
    out.write_str("</tr></thead><tbody>\n")?;
    for group in suite.groups().into_iter().map(Some).chain([None]) {
        match group {
            Some(group) => write!(out, "<tr><th><a href=\"#\" data-group=\"{0}\">{0}</a></th>", Text(group))?,
            None => out.write_str("<tr class=\"sum\"><th>all</th>")?,
        }
        for testbed in suite.ran() {
            out.write_str("<td>")?;
            for (count, word) in testbed.counts(group).parts() {
                write!(out, "<span class=\"mark {word}\">{count} {word}</span> ")?;
            }
            out.write_str("</td>")?;
        }
        out.write_str("</tr>\n")?;
    }
    out.write_str("</tbody></table></div></section>\n")
}

fn testbeds(out: &mut String, suite: &Suite) -> fmt::Result {
    out.write_str("<section><h2>Testbeds</h2><dl>\n")?;
    for testbed in &suite.testbeds {
        let (class, word) = match &testbed.state {
            State::Ran if testbed.succeeded() => ("pass", format!("{:.1} s", testbed.seconds)),
            State::Ran => ("fail", format!("failed, {:.1} s", testbed.seconds)),
            State::Skipped(why) => ("skip", format!("skipped, because {why}")),
            State::Broken(why) => ("fail", format!("broken: {why}")),
        };
        write!(out, "<dt>{}</dt><dd>{} ", Text(&testbed.name), Text(&testbed.title))?;
        if let Some(version) = &testbed.version {
            write!(out, "({}) ", Text(&version.line))?;
        }
        write!(out, "<span class=\"mark {class}\">{}</span>", Text(word))?;
        if let Some(from) = &testbed.untested {
            write!(out, " <small>profile untested: {}</small>", Text(from))?;
        }
        for problem in &testbed.problems {
            write!(out, "<p class=\"problem\">{}</p>", Text(problem))?;
        }
        if let (Some(command), false) = (&testbed.command, testbed.succeeded()) {
            write!(out, "<details><summary>command line</summary><pre>{}</pre></details>", Text(command))?;
        }
        for (title, lines) in [("last console lines", &testbed.tail), ("error output", &testbed.stderr)] {
            if !lines.is_empty() {
                write!(out, "<details><summary>{title}</summary><pre>{}</pre></details>", Text(lines.join("\n")))?;
            }
        }
        out.write_str("</dd>\n")?;
    }
    out.write_str("</dl></section>\n")
}

fn checks_section(out: &mut String, suite: &Suite) -> fmt::Result {
    out.write_str(
        "<section><h2>Checks</h2><form id=\"filters\"><input id=\"text\" type=\"search\" placeholder=\"text in name, rule, evidence\" aria-label=\"text\"> <select id=\"outcome\" aria-label=\"outcome\"><option value=\"\">every outcome</option>",
    )?;
    for word in ["pass", "skip", "advice", "fail", "error", "known", "fixed"] {
        write!(out, "<option>{word}</option>")?;
    }
    out.write_str("</select> <select id=\"testbed\" aria-label=\"testbed\"><option value=\"\">every testbed</option>")?;
    for testbed in suite.ran() {
        write!(out, "<option>{}</option>", Text(&testbed.name))?;
    }
    out.write_str("</select> <output id=\"shown\"></output></form>\n<div id=\"checks\">\n")?;
    for group in suite.groups() {
        writeln!(out, "<h3>{}</h3>", Text(group))?;
        let mut names: Vec<&str> = suite.catalogue.iter().map(|entry| entry.name.as_str()).collect();
        for check in suite.ran().flat_map(|testbed| &testbed.checks) {
            if suite.entry(&check.name).is_none() && !names.contains(&check.name.as_str()) {
                names.push(&check.name);
            }
        }
        for name in names.into_iter().filter(|name| catalogue::group(name) == group) {
            let results: Vec<_> = suite.ran().filter_map(|bed| Some((bed, bed.check(name)?))).collect();
            check_row(out, name, suite.entry(name), &results)?;
        }
    }
    out.write_str("</div></section>\n")
}

/// The word of the filter for a result.
fn class(check: &CheckResult) -> &'static str {
    match check.outcome {
        Outcome::Pass if check.is_fixed() => "fixed",
        outcome if check.known.is_some() && outcome != Outcome::Skip && outcome != Outcome::Pass => "known",
        outcome => outcome.word(),
    }
}

fn check_row(
    out: &mut String,
    name: &str,
    entry: Option<&Entry>,
    results: &[(&TestbedResult, &CheckResult)],
) -> fmt::Result {
    let pairs: Vec<String> = results.iter().map(|(bed, check)| format!("{}={}", bed.name, class(check))).collect();
    write!(out, "<details class=\"check\" data-results=\"{}\"><summary>", Text(pairs.join(" ")))?;
    write!(out, "<code>{}</code> <span class=\"dots\">", Text(name))?;
    for (testbed, check) in results {
        let class = class(check);
        write!(out, "<span class=\"mark {class}\" title=\"{}\">{class}</span> ", Text(&testbed.name))?;
    }
    out.write_str("</span>")?;
    if let Some(entry) = entry {
        write!(out, "<span class=\"rule\">{}</span>", Text(&entry.rule))?;
    }
    out.write_str("</summary><dl>")?;
    if let Some(entry) = entry {
        let parts = [
            ("level", &entry.level),
            ("clause", &entry.clause),
            ("method", &entry.method),
            ("expected", &entry.expectation),
        ];
        for (key, value) in parts {
            write!(out, "<dt>{key}</dt><dd>{}</dd>", Text(value))?;
        }
    }
    out.write_str("</dl><table><tbody>")?;
    for (testbed, check) in results {
        let class = class(check);
        write!(out, "<tr data-testbed=\"{0}\"><th>{0}</th><td><span class=\"mark {class}\">", Text(&testbed.name))?;
        write!(out, "{class}</span></td><td>")?;
        for (key, value) in &check.evidence {
            write!(out, "<p><b>{}</b> {}</p>", Text(key), Text(value))?;
        }
        if let Some(reason) = &check.known {
            write!(out, "<p><b>listed as a known defect</b> {}</p>", Text(reason))?;
        }
        out.write_str("</td></tr>")?;
    }
    out.write_str("</tbody></table></details>\n")
}
