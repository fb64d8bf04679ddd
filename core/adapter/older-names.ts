// Names of modules in checkpoints, for those that transformers 5 gives its own: adapters trained under it have these.
// Source: transformers 5.18, conversion_mapping.py.

/** What transformers 5 made of names, turned round; a name has at most one of each that a checkpoint has too. */
const OLDER: readonly (readonly [RegExp, string])[] = [
  [/^lm_head\./, "embed_out."], // GPT-NeoX
  [/\.mlp\.router\./, ".block_sparse_moe.gate."], // PhiMoE
  [/\.mlp\./, ".block_sparse_moe."], // Mixtral, MiniMax
  [/\.block_sparse_moe\.router\./, ".block_sparse_moe.router.layer."], // GraniteMoE
  [/^model\.language_model\./, "language_model.model."], // LLaVA and its kin
  [/^model\.language_model\./, "model."], // Qwen2-VL
  [/^model\./, "backbone."], // Nemotron-H
];

/** The names that a tensor, or a module with a dot behind it, may have in a checkpoint instead. */
export function olderNames(name: string): readonly string[] {
  return OLDER.map(([newer, older]) => name.replace(newer, older)).filter((older) => older !== name);
}
