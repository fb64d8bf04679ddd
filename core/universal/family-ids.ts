// The families of models whose cuts are known, by the names that options and documents give them. Apart from their
// tables, so that the command line need not load these.

export const FAMILY_IDS = ["llama", "mixtral", "gpt-neox", "megatron-gpt", "megatron-core"] as const;
export type FamilyId = (typeof FAMILY_IDS)[number];
