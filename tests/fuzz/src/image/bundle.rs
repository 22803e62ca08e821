//! The bundle in an image: one that is read can be written, and reads the same again.

use crate::assert_one_line;
use mkimage::bundle::Bundle;

pub(crate) fn run(bytes: &[u8]) {
    let bundle = match Bundle::parse(bytes) {
        Ok(bundle) => bundle,
        Err(error) => return assert_one_line(&error.to_string()),
    };
    assert!(bundle.cmdline.len() <= bytes.len() && bundle.initrd.len() <= bytes.len(), "more than there is");
    // One from elsewhere can have a command line that we would not write.
    let Ok(written) = bundle.compose() else { return };
    let again = Bundle::parse(&written).unwrap_or_else(|error| panic!("our own bundle does not read: {error}"));
    assert_eq!(again, bundle);
}
