//! What is said of weights that are not finite numbers. The search for them is the kernels'.

pub(crate) use crate::kernels::finite::{Float, Refused};

/// The position of element `index` in a tensor of shape `shape`, as `[row, column]`.
pub(crate) fn place(mut index: usize, shape: &[usize]) -> String {
    let mut place: Vec<String> = Vec::new();
    for &size in shape.iter().rev() {
        place.push((index % size.max(1)).to_string());
        index /= size.max(1);
    }
    place.reverse();
    format!("[{}]", place.join(", "))
}

/// The remedy for weights that are refused, for messages.
pub(crate) const REMEDY: &str = "The checkpoint is damaged, or its training diverged: download it again, or use an \
                                 earlier one";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_the_shape() {
        assert_eq!((place(7, &[2, 4]), place(7, &[9]), place(0, &[])), ("[1, 3]".into(), "[7]".into(), "[]".into()));
    }
}
