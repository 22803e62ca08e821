//! Profiles: those that are wrong, and those that we ship.

use super::*;

#[test]
fn a_wrong_profile_is_one_line_that_names_the_key() {
    let good = "name='x'\ntitle='t'\nprogram='p'\nargs=['{image}','{cmdline}']\ntimeout_seconds=1\n";
    let parse = |text: &str| Profile::parse(Path::new("mine.toml"), text);
    assert!(parse(good).is_ok());
    for (text, part) in [
        (format!("{good}tiemout = 1"), "mine.toml: line 6: unknown field `tiemout`"),
        (good.replace("timeout_seconds=1", ""), "missing field `timeout_seconds`"),
        (good.replace("'{image}'", "'{imgae}'"), "args: there is no placeholder {imgae}"),
        (good.replace("'{image}',", ""), "{image} is nowhere"),
        (good.replace(",'{cmdline}'", ""), "{cmdline} is nowhere"),
        (good.replace("name='x'", "name='x y'"), "name is a word"),
        (good.replace("seconds=1", "seconds=0"), "timeout_seconds is from 1 to 3600"),
        (good.replace("seconds=1", "seconds='a'"), "line 5: invalid type: string"),
        (format!("{good}[[known_defects]]\ncheck='*'\nreason=' '"), "a known defect has no reason"),
        (format!("{good}[[known_defects]]\ncheck='a b'\nreason='x'"), "known_defects: the pattern \"a b\""),
        (format!("{good}offers=['net', 'nte']"), "mine.toml: offers: there is no group \"nte\"; there are mmio, pci,"),
        (format!("{good}serial='pipe'"), "{serial} and serial = \"pipe\" belong together"),
        (format!("{good}[[files]]\nname='../x'\ntext=''"), "a word without folders"),
        (format!("{good}[host_actions]\nprotocol='qmp'\ncan=['moon']"), "host_actions.can has words out of"),
        (format!("{good}[host_actions]\nprotocol='qmp'\ncan=['disk']"), "host_actions needs {control}"),
        (format!("{good}[host_actions]\nprotocol='klingon'\ncan=[]"), "unknown variant `klingon`"),
        ("name = ".into(), "mine.toml: line 1:"),
    ] {
        let error = parse(&text).unwrap_err().to_string();
        assert!(error.contains(part), "{part} is not in {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    assert!(Profile::read(Path::new("/nonexistent.toml")).unwrap_err().to_string().contains("cannot read"));
    assert!(Profile::read(Path::new("/dev/zero")).is_err());
}

#[test]
fn every_profile_that_we_ship_is_good_and_called_like_its_file() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles");
    let profiles = ringside_tests::conform::profile::read_folder(&folder).unwrap();
    assert!(profiles.len() >= 8);
    for (stem, profile) in profiles {
        let profile = profile.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(profile.name, stem);
        let groups: Vec<_> = conformance::iter().map(conformance::Check::group).collect();
        assert!(profile.offers.iter().all(|group| groups.contains(&group.as_str())), "{stem}");
        for (pattern, _) in profile.defects(None).unwrap() {
            let alive = conformance::iter().any(|check| pattern.matches(check.name));
            assert!(alive, "{stem}: no check matches the known defect {:?}", pattern.text());
        }
    }
}
