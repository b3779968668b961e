-- The Merkle tree over the log (docs/AUDIT.md), kept in the same transactions as the rows.

-- The number of leaves: the checkpoint's sequence, or 0 if this view has no tree.
ALTER TABLE checkpoint ADD COLUMN tree_size INTEGER NOT NULL DEFAULT 0 CHECK (tree_size BETWEEN 0 AND sequence);
-- The first sequence that the log has lost, before which the tree ends permanently; 0: none.
ALTER TABLE checkpoint ADD COLUMN tree_missing INTEGER NOT NULL DEFAULT 0
    CHECK (tree_missing = 0 OR tree_missing = tree_size + 1);
-- The hashes of leaves that the last transaction added after the last complete tile; '' for none.
ALTER TABLE checkpoint ADD COLUMN tree_tail BLOB NOT NULL DEFAULT x'' CHECK (length(tree_tail) % 32 = 0);

-- Level 0: 256 hashes of leaves, complete tiles only. Level 1 and above: the roots of up to 256 tiles of the level below.
CREATE TABLE tree_tiles (
    level INTEGER NOT NULL CHECK (level >= 0),
    position INTEGER NOT NULL CHECK (position >= 0),
    hashes BLOB NOT NULL CHECK (length(hashes) BETWEEN 32 AND 8192 AND length(hashes) % 32 = 0),
    PRIMARY KEY (level, position)
) STRICT;

-- The hashes after the last complete tile of level 0, in the order of the log: a live event adds a row and rewrites no tile.
CREATE TABLE tree_tail (
    start INTEGER PRIMARY KEY CHECK (start >= 0),  -- the index of the first leaf
    hashes BLOB NOT NULL CHECK (length(hashes) >= 32 AND length(hashes) % 32 = 0)
) STRICT;

-- A trigger, because a separate statement would cost a live event a fifth of its transaction.
CREATE TRIGGER tree_grows AFTER UPDATE OF tree_tail ON checkpoint WHEN length(NEW.tree_tail) > 0
BEGIN
    INSERT INTO tree_tail (start, hashes) VALUES (NEW.tree_size - length(NEW.tree_tail) / 32, NEW.tree_tail);
END;
