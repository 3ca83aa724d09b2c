//! The inputs of a step, and the order of copies. `decode::decoder::tests::device` runs them on a device.

use super::*;

fn step() -> Step {
    let mut step = Step::default();
    for (variant, past, tokens) in [(Variant::Short, 3, 2), (Variant::Long, 70, 1), (Variant::Long, 0, 3)] {
        step.push(variant, &vec![7; tokens], past, std::iter::once(Some(0)), |slot| slot as i32, 1);
    }
    step.finish();
    step
}

#[test]
fn positions_of_long_sequences_begin_behind_the_small_tables() {
    let rope = LongRope { original: 64, small_rows: 100, large_rows: 200 };
    assert_eq!(rotary_rows(&step(), rope), [3, 4, 170, 100, 101, 102]);
}

#[test]
fn the_bounds_of_a_step_hold_for_each_of_its_sequences() {
    assert_eq!(bounds(&step()), [3, 71, 71]);
}

#[test]
fn copies_wait_for_those_that_they_depend_on() {
    let groups = |copies: &[(i64, i64)]| {
        let mut groups = Vec::new();
        for &copy in copies {
            add(&mut groups, copy);
        }
        groups
    };
    assert_eq!(groups(&[(1, 2), (1, 3), (4, 5)]), [vec![(1, 2), (1, 3), (4, 5)]], "one run makes them all");
    assert_eq!(groups(&[(1, 2), (2, 3)]), [vec![(1, 2)], vec![(2, 3)]], "the second reads what the first wrote");
    assert_eq!(groups(&[(1, 2), (3, 2)]), [vec![(1, 2)], vec![(3, 2)]], "the second is the last to write");
    assert_eq!(groups(&[(1, 2), (3, 1), (4, 5)]), [vec![(1, 2)], vec![(3, 1), (4, 5)]], "the first reads before");
}

#[test]
fn the_graph_of_copies_updates_each_cache() {
    let caches = ["a".to_owned(), "b".to_owned()];
    let model = copies(&caches, DataType::Float16, [8, 64, 2, 16]);
    let graph = model.graph.expect("a graph");
    let ops: Vec<_> = graph.node.iter().map(|node| node.op_type()).collect();
    assert_eq!(ops, ["Gather", "ScatterND", "Gather", "ScatterND"]);
    let outputs: Vec<_> = graph.output.iter().map(|output| output.name()).collect();
    assert_eq!(outputs, ["a.updated", "b.updated"]);
}

#[test]
fn copies_that_failed_are_still_due() {
    let all = vec![vec![(1, 2)], vec![(2, 3), (4, 5)], vec![(3, 6)]];
    let mut due = all.clone();
    let mut made = Vec::new();
    let mut make = |fails: bool| {
        each(&mut due, |group| match fails && made.len() == 1 {
            true => Err(crate::Error::runtime("the device is busy")),
            false => {
                made.push(group.to_vec());
                Ok(())
            }
        })
    };
    make(true).expect_err("the second fails");
    make(false).expect("made");
    assert_eq!((made, due), (all, vec![]), "each was made once, in order");
}
