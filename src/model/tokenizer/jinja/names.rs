//! Names of the filters that a template's operators become. No name of a template begins so.

/// What all of them begin with, and no filter that a template names.
pub(super) const PREFIX: &str = "foreturn_";

macro_rules! names {
    ($($constant:ident $name:literal)*) => {
        $(pub(super) const $constant: &str = concat!("foreturn_", $name);)*
    };
}

names! {
    ADD "add"
    SUBTRACT "subtract"
    MULTIPLY "multiply"
    DIVIDE "divide"
    FLOOR "floor"
    REMAINDER "remainder"
    POWER "power"
    CONCATENATE "concatenate"
    NEGATIVE "negative"
    POSITIVE "positive"
    COMPARE "compare"
    ATTRIBUTE "attribute"
    ITEM "item"
    SLICE "slice"
    METHOD "method"
    ITERATE "iterate"
    MADE "made"
    STORED "stored"
    WITHIN "within"
    WRITTEN "written"
    MACRO "macro"
    MISSING "missing"
}
