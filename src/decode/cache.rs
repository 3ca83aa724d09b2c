//! A tree of the key-value cache's blocks, keyed by their tokens and their parent. It says which block holds which
//! tokens.
//!
//! A node is one block's worth of tokens after its parent's. Sequences with a common prefix walk the same nodes, so
//! they share its blocks, also those that are still being computed: a node may exist before its rows do (`filled` says
//! how many are there), and the sequence that gets to it first computes it. Nodes that nobody uses stay as a cache
//! until their block is needed. The least recently used leaf goes first.
//!
//! There is one tree for each [`Variant`]: rows computed with other rotary tables are other rows.
//!
//! Only full nodes are shared. A sequence that leaves a node half-way gets a node of its own, which takes the common
//! rows over by copying them once they are there (copy on write), so sharing is exact to the token.
//!
//! This module keeps books; it never touches the cache's bytes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};

use super::rope::Variant;

/// A node of the tree. Valid while somebody uses the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NodeId(u32);

/// A block of the key-value cache.
pub(crate) type Block = u32;

/// Nodes from the root that hold a sequence's tokens in order. All are full except the last.
pub(crate) type Path = Vec<NodeId>;

/// The place that a node hangs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Parent {
    Root(Variant),
    Node(NodeId),
}

#[derive(Debug)]
struct Node {
    parent: Parent,
    tokens: Vec<u32>,
    /// Rows that have been computed.
    filled: usize,
    block: Option<Block>,
    /// Number of sequences, pins and pending copies that need this node. A parent has at least its children's.
    users: u32,
    children: u32,
    /// Rows to take over from another node, once it has them.
    copy_from: Option<(NodeId, usize)>,
    /// The time by `clock` at which it was last let go.
    stamp: u64,
}

/// The copy that a node waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CopyState {
    /// Nothing to copy.
    None,
    /// This many rows of that node are wanted; it has `filled` now.
    Wanted { source: NodeId, rows: usize, filled: usize },
}

/// The block tree and the free blocks.
#[derive(Debug)]
pub(crate) struct Cache {
    nodes: Vec<Option<Node>>,
    vacant: Vec<u32>,
    /// Children by parent and first token.
    children: HashMap<(Parent, u32), Vec<NodeId>>,
    /// Lowest first, so that the resident part of the pool stays compact.
    free: BinaryHeap<Reverse<Block>>,
    /// Unused leaves with a block, least recently used first.
    evictable: BTreeSet<(u64, NodeId)>,
    /// Nodes that wait for a copy.
    copies: BTreeSet<NodeId>,
    /// Blocks of nodes in use.
    held: usize,
    total: usize,
    /// Tokens of a block.
    block_size: usize,
    clock: u64,
}

impl Cache {
    /// A cache of `blocks` blocks of `block_size` tokens.
    pub(crate) fn new(blocks: usize, block_size: usize) -> Self {
        Cache {
            nodes: Vec::new(),
            vacant: Vec::new(),
            children: HashMap::new(),
            free: (0..blocks as Block).map(Reverse).collect(),
            evictable: BTreeSet::new(),
            copies: BTreeSet::new(),
            held: 0,
            total: blocks,
            block_size,
            clock: 0,
        }
    }

    /// Forgets all rows and frees all blocks. Paths handed out before are void; nobody may use or release them any
    /// more.
    pub(crate) fn clear(&mut self) {
        *self = Cache::new(self.total, self.block_size);
    }

    /// All blocks.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// Blocks that no user holds: free, or holding prefixes that may be evicted.
    pub(crate) fn available(&self) -> usize {
        self.total - self.held
    }

    /// Blocks with contents, in use or cached.
    pub(crate) fn occupied(&self) -> usize {
        self.total - self.free.len()
    }

    /// Takes the nodes that hold `tokens` in the variant's tree into use, and creates those that are missing.
    pub(crate) fn attach(&mut self, variant: Variant, tokens: &[u32]) -> Path {
        let mut path = Path::with_capacity(tokens.len().div_ceil(self.block_size));
        let mut parent = Parent::Root(variant);
        for chunk in tokens.chunks(self.block_size) {
            let node = self.find(parent, chunk).unwrap_or_else(|| self.adopt_or_create(parent, chunk));
            self.take(node);
            path.push(node);
            parent = Parent::Node(node);
        }
        path
    }

    /// Adds `token` at the end of a path (not an empty one) that its sequence alone uses beyond the last full node.
    pub(crate) fn append(&mut self, path: &mut Path, token: u32) {
        let Some(&tail) = path.last() else { return };
        let block_size = self.block_size;
        let node = self.node_mut(tail);
        if node.tokens.len() < block_size {
            node.tokens.push(token);
            return;
        }
        let node = self.create(Parent::Node(tail), &[token]);
        self.take(node);
        path.push(node);
    }

    /// Lets go of a path. Computed rows stay cached.
    pub(crate) fn release(&mut self, path: Path) {
        self.clock += 1;
        for id in path.into_iter().rev() {
            self.drop_use(id);
        }
    }

    /// Rows computed in a node.
    pub(crate) fn filled(&self, id: NodeId) -> usize {
        self.node(id).filled
    }

    /// The node's block, if it has one.
    pub(crate) fn block(&self, id: NodeId) -> Option<Block> {
        self.node(id).block
    }

    /// Blocks of `path` that nobody else uses.
    pub(crate) fn unshared(&self, path: &Path) -> usize {
        path.iter().map(|&id| self.node(id)).filter(|node| node.users == 1 && node.block.is_some()).count()
    }

    /// Nodes of `path` that still lack a block.
    pub(crate) fn missing(&self, path: &Path) -> usize {
        path.iter().filter(|&&id| self.node(id).block.is_none()).count()
    }

    /// Gives the node a block, and evicts cached prefixes for it if it has to. Returns `false` if all blocks are in
    /// use.
    pub(crate) fn ensure_block(&mut self, id: NodeId) -> bool {
        if self.node(id).block.is_some() {
            return true;
        }
        while self.free.is_empty() {
            if !self.evict() && !self.give_up_copy() {
                return false;
            }
        }
        let Some(Reverse(block)) = self.free.pop() else { return false };
        self.node_mut(id).block = Some(block);
        self.held += 1; // the caller uses the node
        true
    }

    /// Says that the first `rows` rows of the node are there.
    pub(crate) fn fill(&mut self, id: NodeId, rows: usize) {
        let node = self.node_mut(id);
        node.filled = node.filled.max(rows);
        if node.copy_from.is_some_and(|(_, rows)| rows <= node.filled) {
            self.forget_copy(id);
        }
    }

    /// The copy that the node waits for.
    pub(crate) fn copy_state(&self, id: NodeId) -> CopyState {
        match self.node(id).copy_from {
            Some((source, rows)) if rows > self.node(id).filled => {
                CopyState::Wanted { source, rows, filled: self.node(source).filled }
            }
            _ => CopyState::None,
        }
    }

    /// Ends the wait for a copy that was made, or won't be.
    pub(crate) fn forget_copy(&mut self, id: NodeId) {
        if let Some((source, _)) = self.node_mut(id).copy_from.take() {
            self.copies.remove(&id);
            self.drop_use(source);
        }
    }

    /// Lets go of a node that only copies to come use, because its block is needed. Their rows will be computed
    /// instead. Returns `false` if there is no such node.
    fn give_up_copy(&mut self) -> bool {
        let mut wanted: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
        for &id in &self.copies {
            if let Some((source, _)) = self.node(id).copy_from {
                wanted.entry(source).or_default().push(id);
            }
        }
        let held_by_copies = |(source, by): &(NodeId, Vec<NodeId>)| self.node(*source).users as usize == by.len();
        let Some((_, by)) = wanted.into_iter().find(held_by_copies) else { return false };
        by.into_iter().for_each(|id| self.forget_copy(id));
        true
    }

    fn node(&self, id: NodeId) -> &Node {
        self.nodes[id.0 as usize].as_ref().expect("a node in use exists")
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes[id.0 as usize].as_mut().expect("a node in use exists")
    }

    fn siblings(&self, parent: Parent, first: u32) -> &[NodeId] {
        self.children.get(&(parent, first)).map_or(&[], Vec::as_slice)
    }

    /// The child of `parent` that holds exactly this full chunk. If there are twins, the one with most rows.
    fn find(&self, parent: Parent, chunk: &[u32]) -> Option<NodeId> {
        if chunk.len() < self.block_size {
            return None;
        }
        let same = self.siblings(parent, chunk[0]).iter().filter(|&&id| self.node(id).tokens == chunk);
        same.copied().max_by_key(|&id| self.node(id).filled)
    }

    /// A node for `chunk` that nobody else uses yet: an unused partial one that the chunk continues, or a new one. The
    /// new one takes over the rows that it has in common with a sibling.
    fn adopt_or_create(&mut self, parent: Parent, chunk: &[u32]) -> NodeId {
        let common = |tokens: &[u32]| tokens.iter().zip(chunk).take_while(|(a, b)| a == b).count();
        let best = self.siblings(parent, chunk[0]).iter().copied().max_by_key(|&id| {
            let node = self.node(id);
            let rows = common(&node.tokens);
            (rows, node.filled.min(rows))
        });
        let Some(best) = best else { return self.create(parent, chunk) };
        let rows = common(&self.node(best).tokens);
        let node = self.node(best);
        if node.users == 0 && node.children == 0 && rows == node.tokens.len() {
            self.node_mut(best).tokens.extend_from_slice(&chunk[rows..]);
            return best;
        }
        let id = self.create(parent, chunk);
        self.node_mut(id).copy_from = Some((best, rows));
        self.copies.insert(id);
        self.take(best);
        id
    }

    fn create(&mut self, parent: Parent, tokens: &[u32]) -> NodeId {
        let node = Node {
            parent,
            tokens: tokens.to_vec(),
            filled: 0,
            block: None,
            users: 0,
            children: 0,
            copy_from: None,
            stamp: 0,
        };
        let id = match self.vacant.pop() {
            Some(slot) => {
                self.nodes[slot as usize] = Some(node);
                NodeId(slot)
            }
            None => {
                self.nodes.push(Some(node));
                NodeId(self.nodes.len() as u32 - 1)
            }
        };
        if let Parent::Node(parent) = parent {
            self.node_mut(parent).children += 1;
        }
        self.children.entry((parent, tokens[0])).or_default().push(id);
        id
    }

    fn take(&mut self, id: NodeId) {
        let node = self.node_mut(id);
        node.users += 1;
        if node.users == 1 && node.block.is_some() {
            let key = (node.stamp, id);
            self.held += 1;
            self.evictable.remove(&key);
        }
    }

    fn drop_use(&mut self, id: NodeId) {
        let clock = self.clock;
        let node = self.node_mut(id);
        node.users -= 1;
        if node.users > 0 {
            return;
        }
        node.stamp = clock;
        // Nobody will compute the tokens without rows any more.
        node.tokens.truncate(node.filled.max(1));
        if node.block.is_some() {
            self.held -= 1;
        }
        self.forget_copy(id);
        self.settle(id);
    }

    /// Removes an unused node without rows; lists one with rows for eviction once it is a leaf.
    fn settle(&mut self, id: NodeId) {
        let node = self.node(id);
        if node.users > 0 || node.children > 0 {
            return;
        }
        if node.filled == 0 {
            self.remove(id);
        } else {
            self.evictable.insert((node.stamp, id));
        }
    }

    /// Frees the block of the least recently used leaf. Returns `false` if there is none.
    fn evict(&mut self) -> bool {
        let Some((_, id)) = self.evictable.pop_first() else { return false };
        self.remove(id);
        true
    }

    fn remove(&mut self, id: NodeId) {
        let Some(node) = self.nodes[id.0 as usize].take() else { return };
        self.vacant.push(id.0);
        if let Some(block) = node.block {
            self.free.push(Reverse(block));
        }
        let key = (node.parent, node.tokens[0]);
        if let Some(siblings) = self.children.get_mut(&key) {
            siblings.retain(|&sibling| sibling != id);
            if siblings.is_empty() {
                self.children.remove(&key);
            }
        }
        if let Parent::Node(parent) = node.parent {
            self.node_mut(parent).children -= 1;
            self.settle(parent);
        }
    }

    /// Checks every invariant; for tests.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        let live = || self.nodes.iter().enumerate().filter_map(|(i, n)| Some((NodeId(i as u32), n.as_ref()?)));
        let mut blocks: Vec<_> = live().filter_map(|(_, n)| n.block).chain(self.free.iter().map(|b| b.0)).collect();
        blocks.sort_unstable();
        assert_eq!(blocks, (0..self.total as Block).collect::<Vec<_>>(), "every block is owned once");
        assert_eq!(self.held, live().filter(|(_, n)| n.users > 0 && n.block.is_some()).count());
        assert!(live().filter(|(_, n)| n.copy_from.is_some()).map(|(id, _)| id).eq(self.copies.iter().copied()));
        for (id, node) in live() {
            let fulfilled = node.copy_from.is_some_and(|(_, rows)| rows <= node.filled);
            assert!(!fulfilled, "a copy that is not wanted any more holds nothing");
            assert!(
                node.filled <= node.tokens.len() && node.tokens.len() <= self.block_size && !node.tokens.is_empty()
            );
            assert!(node.filled == 0 || node.block.is_some(), "rows need a block");
            assert_eq!(node.children as usize, live().filter(|(_, n)| n.parent == Parent::Node(id)).count());
            assert!(node.children == 0 || node.tokens.len() == self.block_size, "only full nodes have children");
            let leaf = node.users == 0 && node.children == 0;
            assert_eq!(leaf, self.evictable.contains(&(node.stamp, id)), "unused leaves are evictable");
            if let Parent::Node(parent) = node.parent {
                assert!(self.node(parent).users >= node.users, "who uses a node uses its parent");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK_SIZE: usize = 16;

    fn tokens(n: usize) -> Vec<u32> {
        (0..n as u32).collect()
    }

    fn compute(cache: &mut Cache, path: &Path, length: usize) {
        for (i, &id) in path.iter().enumerate() {
            assert!(cache.ensure_block(id));
            cache.fill(id, (length - i * BLOCK_SIZE).min(BLOCK_SIZE));
        }
    }

    #[test]
    fn equal_prefixes_share_full_nodes_and_copy_the_rest() {
        let mut cache = Cache::new(8, BLOCK_SIZE);
        let a = cache.attach(Variant::Short, &tokens(40));
        compute(&mut cache, &a, 40);
        let mut other = tokens(40);
        other[36] = 99;
        let b = cache.attach(Variant::Short, &other);
        assert_eq!(a[..2], b[..2]);
        assert_ne!(a[2], b[2]);
        assert_eq!(cache.copy_state(b[2]), CopyState::Wanted { source: a[2], rows: 4, filled: 8 });
        cache.check();
        cache.release(b);
        cache.release(a);
        cache.check();
        assert_eq!((cache.available(), cache.occupied()), (8, 3));
    }

    #[test]
    fn a_sequence_attaches_to_blocks_that_are_not_computed_yet() {
        let mut cache = Cache::new(8, BLOCK_SIZE);
        let a = cache.attach(Variant::Short, &tokens(32));
        let b = cache.attach(Variant::Short, &tokens(32));
        assert_eq!(a, b);
        assert_eq!(cache.occupied(), 0);
        cache.release(a);
        cache.check();
        cache.release(b);
        cache.check();
    }

    #[test]
    fn an_unused_partial_node_is_continued_in_place() {
        let mut cache = Cache::new(8, BLOCK_SIZE);
        let a = cache.attach(Variant::Short, &tokens(20));
        compute(&mut cache, &a, 20);
        cache.release(a.clone());
        let b = cache.attach(Variant::Short, &tokens(30));
        assert_eq!(a, b);
        assert_eq!(cache.filled(b[1]), 4);
        cache.check();
    }

    #[test]
    fn a_copy_to_come_does_not_hold_the_last_block() {
        let mut cache = Cache::new(4, BLOCK_SIZE);
        let old = cache.attach(Variant::Short, &tokens(24));
        compute(&mut cache, &old, 24);
        cache.release(old);
        let mut other = tokens(64);
        other[20] = 99;
        let path = cache.attach(Variant::Short, &other);
        assert!(matches!(cache.copy_state(path[1]), CopyState::Wanted { rows: 4, .. }));
        compute(&mut cache, &path, 64);
        assert_eq!(cache.copy_state(path[1]), CopyState::None);
        cache.check();
        cache.release(path);
        assert_eq!(cache.available(), 4);
    }

    #[test]
    fn the_least_recently_used_leaf_is_evicted_first() {
        let mut cache = Cache::new(2, BLOCK_SIZE);
        let old = cache.attach(Variant::Short, &[1]);
        compute(&mut cache, &old, 1);
        let new = cache.attach(Variant::Short, &[2]);
        compute(&mut cache, &new, 1);
        cache.release(old);
        cache.release(new.clone());
        let third = cache.attach(Variant::Short, &[3]);
        assert!(cache.ensure_block(third[0]));
        assert_eq!(cache.attach(Variant::Short, &[2]), new, "the younger prefix is still there");
        cache.check();
    }
}
