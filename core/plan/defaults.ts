// What a plan takes where nobody says otherwise. Apart from the planner, so that who needs a number does not load it.

/** Bytes of the largest shard of an output: that of the reference's writer, and so the usual one. */
export const SHARD_BYTES_DEFAULT = 5_000_000_000;

/** Bound on the memory of one process that works on weights. */
export const MEMORY_BYTES_DEFAULT = 512 * 2 ** 20;
