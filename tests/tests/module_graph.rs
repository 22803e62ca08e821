//! No circles: of the modules side by side in a module, none may lead back to itself by what they and the modules in them
//! name. A module and those inside it count as one, and so do tests for nothing.

use proc_macro2::{TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use syn::visit::Visit;
use syn::{Item, ItemMod, UseTree};

/// The crates, by the file that each begins with.
const CRATES: [&str; 19] = [
    "shared-abi/src/lib.rs",
    "shared-abi/virtio/src/lib.rs",
    "guest-kernel/src/lib.rs",
    "guest-kernel/image/src/main.rs",
    "guest-kernel/pvops/src/lib.rs",
    "guest-kernel/frontends/src/lib.rs",
    "guest-kernel/frontends/hostile/src/lib.rs",
    "guest-kernel/balloon/src/lib.rs",
    "guest-kernel/loader/src/lib.rs",
    "guest-kernel/loader/bios/src/main.rs",
    "guest-kernel/loader/linux/src/main.rs",
    "guest-kernel/loader/efi/src/main.rs",
    "host-backend/hostile/src/lib.rs",
    "tests/conformance/src/lib.rs",
    "tests/inner/src/lib.rs",
    "tests/src/lib.rs",
    "tools/xtask/src/main.rs",
    "tools/mkimage/src/lib.rs",
    "host-backend/src/lib.rs",
];

/// A path of names from the root of a crate.
type Place = Vec<String>;

/// What the modules of a crate name.
#[derive(Default)]
struct Graph {
    modules: BTreeSet<Place>,
    /// Paths as they stand, by the module that they stand in.
    named: Vec<(Place, Place)>,
    /// What a module passes on under a name of its own.
    passed_on: BTreeMap<Place, Place>,
}

impl Graph {
    fn read(root: &Path) -> Self {
        let mut graph = Self::default();
        graph.file(root, root.parent().unwrap().to_owned(), Vec::new());
        graph
    }

    /// Reads a file; those of the modules that it declares are in `folder`.
    fn file(&mut self, path: &Path, folder: PathBuf, place: Place) {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        self.modules.insert(place.clone());
        self.items(&file.items, &folder, &place);
    }

    fn items(&mut self, items: &[Item], folder: &Path, place: &Place) {
        // A `use` may stand before the module that it names.
        for item in items {
            if let Item::Mod(module) = item
                && !is_test(module)
            {
                self.modules.insert([place.as_slice(), &[module.ident.to_string()]].concat());
            }
        }
        for item in items {
            match item {
                Item::Mod(module) if is_test(module) => {}
                Item::Mod(module) => self.module(module, folder, place),
                Item::Use(item) => {
                    let mut paths = Vec::new();
                    leaves(&item.tree, &mut Vec::new(), &mut paths);
                    for (path, name) in paths {
                        let Some(path) = self.absolute(&path, place) else { continue };
                        if !matches!(item.vis, syn::Visibility::Inherited) {
                            self.passed_on.insert([place.as_slice(), &[name]].concat(), path.clone());
                        }
                        self.named.push((place.clone(), path));
                    }
                }
                other => Paths { graph: self, place }.visit_item(other),
            }
        }
    }

    fn module(&mut self, module: &ItemMod, folder: &Path, place: &Place) {
        let name = module.ident.to_string();
        let inside = [place.as_slice(), std::slice::from_ref(&name)].concat();
        let folder_of = folder.join(&name);
        match &module.content {
            Some((_, items)) => {
                self.modules.insert(inside.clone());
                self.items(items, &folder_of, &inside);
            }
            None => {
                let sibling = folder.join(format!("{name}.rs"));
                let path = if sibling.exists() { sibling } else { folder_of.join("mod.rs") };
                self.file(&path, folder_of, inside);
            }
        }
    }

    /// A path from the root; `None` if it leads out of the crate, or is one of an item in scope.
    fn absolute(&self, path: &[String], place: &Place) -> Option<Place> {
        let mut rest = path;
        let mut base = match rest.first()?.as_str() {
            "crate" => Vec::new(),
            "self" => place.clone(),
            "super" => {
                let mut base = place.clone();
                while rest.first().is_some_and(|part| part == "super") {
                    base.pop()?;
                    rest = &rest[1..];
                }
                base.extend(rest.iter().cloned());
                return Some(base);
            }
            // A module declared here.
            name if self.modules.contains(&[place.as_slice(), &[name.to_owned()]].concat()) => {
                return Some([place.as_slice(), path].concat());
            }
            _ => return None,
        };
        base.extend(rest[1..].iter().cloned());
        Some(base)
    }

    /// The module that a path ends in, what is passed on followed to where it comes from.
    fn module_of(&self, path: &Place) -> Place {
        let mut path = path.clone();
        for _ in 0..8 {
            let known = (0..=path.len()).rev().find(|&len| self.modules.contains(&path[..len])).unwrap_or(0);
            match path.get(..=known).and_then(|name| self.passed_on.get(name)) {
                Some(origin) => path = [origin.as_slice(), &path[known + 1..]].concat(),
                None => return path[..known].to_vec(),
            }
        }
        panic!("{} is passed on in a circle", path.join("::"));
    }

    /// Circles, each as the modules on it, with the place where each step of it stands.
    fn circles(&self) -> Vec<String> {
        // From one module to a sibling, and the path that names it.
        let mut edges: BTreeMap<Place, BTreeMap<Place, String>> = BTreeMap::new();
        for (from, path) in &self.named {
            let to = self.module_of(path);
            let common = from.iter().zip(&to).take_while(|(one, other)| one == other).count();
            if common < from.len() && common < to.len() {
                let (one, other) = (from[..=common].to_vec(), to[..=common].to_vec());
                let why = format!("{} names {}", from.join("::"), path.join("::"));
                edges.entry(one).or_default().entry(other).or_insert(why);
            }
        }
        edges.keys().filter_map(|start| circle(&edges, start)).collect()
    }
}

/// The shortest way from a module back to it.
fn circle(edges: &BTreeMap<Place, BTreeMap<Place, String>>, start: &Place) -> Option<String> {
    let mut ways: BTreeMap<&Place, Vec<&str>> = BTreeMap::from([(start, Vec::new())]);
    let mut next = vec![start];
    while let Some(from) = next.pop() {
        for (to, why) in edges.get(from).into_iter().flatten() {
            let way = [ways[from].as_slice(), &[why.as_str()]].concat();
            if to == start {
                return Some(format!("{}: {}", start.join("::"), way.join(", ")));
            }
            if !ways.contains_key(to) {
                ways.insert(to, way);
                next.insert(0, to);
            }
        }
    }
    None
}

/// Whether what follows is there in tests only.
fn is_of_tests(condition: &str) -> bool {
    condition == "test" || condition.starts_with("all (test ,") || condition.starts_with("all(test,")
}

fn is_test(module: &ItemMod) -> bool {
    module.attrs.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) => list.path.is_ident("cfg") && is_of_tests(&list.tokens.to_string()),
        _ => false,
    })
}

/// The paths of a `use`, and the name that each has here.
fn leaves(tree: &UseTree, path: &mut Place, found: &mut Vec<(Place, String)>) {
    match tree {
        UseTree::Path(step) => {
            path.push(step.ident.to_string());
            leaves(&step.tree, path, found);
            path.pop();
        }
        UseTree::Group(group) => group.items.iter().for_each(|tree| leaves(tree, path, found)),
        UseTree::Name(name) if name.ident == "self" => {
            found.push((path.clone(), path.last().cloned().unwrap_or_default()));
        }
        UseTree::Name(name) => {
            found.push(([path.as_slice(), &[name.ident.to_string()]].concat(), name.ident.to_string()))
        }
        UseTree::Rename(name) => {
            found.push(([path.as_slice(), &[name.ident.to_string()]].concat(), name.rename.to_string()));
        }
        UseTree::Glob(_) => found.push((path.clone(), "*".into())),
    }
}

/// Paths that stand in an item, in what macros are given, too.
struct Paths<'a> {
    graph: &'a mut Graph,
    place: &'a Place,
}

impl Paths<'_> {
    fn found(&mut self, path: &[String]) {
        if let Some(path) = self.graph.absolute(path, self.place) {
            self.graph.named.push((self.place.clone(), path));
        }
    }

    /// `a::b::c` in a row of tokens.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Place = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.found(&std::mem::take(&mut path));
                    }
                    path.push(name.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.found(&std::mem::take(&mut path));
                    self.tokens(group.stream());
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {
                    self.found(&std::mem::take(&mut path));
                    colons = 0;
                }
            }
        }
        self.found(&path);
    }
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            let names: Place = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.found(&names);
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.tokens(call.tokens.clone());
        syn::visit::visit_macro(self, call);
    }

    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}
}

#[test]
fn no_module_leads_back_to_itself() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut modules = 0;
    for name in CRATES {
        let graph = Graph::read(&root.join(name));
        modules += graph.modules.len();
        let circles = graph.circles();
        assert!(circles.is_empty(), "{name}:\n{}", circles.join("\n"));
    }
    assert!(modules > 200, "only {modules} modules were read");
}

/// Circles in a crate of one file.
fn circles(text: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lib.rs");
    fs::write(&file, text).unwrap();
    Graph::read(&file).circles()
}

#[test]
fn circles_are_found_by_whatever_they_are_made_of() {
    let none: [&str; 4] = [
        "mod a { use crate::b::B; } mod b { pub struct B; }",
        // A module and its parent.
        "mod a { pub mod c { use super::A; } pub struct A; use c::X; }",
        // Only tests lead back.
        "mod a { use crate::b; } mod b { #[cfg(test)] mod tests { use crate::a; } }",
        // The root passes on what is one's own.
        "pub use a::A; mod a { pub struct A; fn f(_: crate::A) {} }",
    ];
    for text in none {
        assert_eq!(circles(text), [""; 0], "{text}");
    }
    let some: [&str; 7] = [
        // A feature's modules are modules, also when tests have them.
        "mod a { use crate::b; } #[cfg(any(test, feature = \"test-x\"))] mod b { use crate::a; }",
        "mod a { use crate::b::B; } mod b { use super::a; }",
        "mod a { fn f() { crate::b::g() } } mod b { pub fn g() { crate::c::h() } } mod c { pub fn h() { super::a::f() } }",
        "mod a { fn f() { println!(\"{}\", crate::b::X) } } mod b { use crate::a; }",
        "pub use b::B; mod a { fn f(_: crate::B) {} } mod b { pub struct B; use crate::a; }",
        "mod a { mod deep { use crate::b::deep::X; } } mod b { pub mod deep { use crate::a; } }",
        "mod r { pub mod a { use super::b; } pub mod b { use super::a; } }",
    ];
    for text in some {
        assert!(!circles(text).is_empty(), "{text}");
    }
}
