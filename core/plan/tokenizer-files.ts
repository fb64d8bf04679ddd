// The tokenizer files of an output whose vocabulary is built: one tokenizer.json that says all, the settings and the
// special tokens of the model that the vocabulary starts from. Older forms of the same vocabulary (vocab.json,
// merges.txt, tokenizer.model, added_tokens.json) would contradict it and stay behind.
// Source of the forms: transformers' tokenizer files.
import { fileRole } from "../formats/side-files.ts";
import type { AddedToken } from "../tokenizer/tokenizer.ts";
import type { IndexedModel } from "./adapter.ts";
import { readDocument, SPECIAL_TOKENS_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE } from "./documents.ts";
import type { Notes } from "./notes.ts";
import { stringifyConfig } from "./output-config.ts";
import type { MergeModel } from "./plan-merge.ts";
import type { SideFile } from "./schema.ts";
import type { VocabularyPlan } from "./vocabulary.ts";

/** Files that hold no vocabulary and are right beside any. */
const KEPT = /^chat_template\.(?:json|jinja)$/;

/** The tokenizer files of a model, with the built vocabulary where there is one. */
export function tokenizerFiles(
  { model, source }: IndexedModel,
  vocabulary: VocabularyPlan | undefined,
  notes: Notes,
): readonly SideFile[] {
  const own = model.checkpoint.sideFiles
    .filter(({ name }) => fileRole(name) === "tokenizer")
    .map(({ name, bytes }): SideFile => ({ from: "source", name, source, file: name, bytes }));
  if (vocabulary === undefined || vocabulary.merged.unchanged) return own;
  const written: readonly SideFile[] = [
    {
      from: "text",
      name: TOKENIZER_FILE,
      text: vocabulary.tokenizer.write(vocabulary.merged.vocabulary, vocabulary.merged.merges),
    },
    { from: "text", name: TOKENIZER_CONFIG_FILE, text: stringifyConfig(tokenizerConfig(model, vocabulary)) },
    { from: "text", name: SPECIAL_TOKENS_FILE, text: stringifyConfig(specialTokens(model)) },
  ];
  const left = own.filter(({ name }) => !KEPT.test(name) && !written.some((file) => file.name === name));
  for (const { name } of left) notes.add("tokenizer.json holds the new vocabulary: older forms are not copied", name);
  return [...written, ...own.filter(({ name }) => KEPT.test(name))];
}

/** Ids of added tokens are said here too, and win over tokenizer.json when transformers loads the folder. */
function tokenizerConfig(model: MergeModel, { merged }: VocabularyPlan): Record<string, unknown> {
  const own = readDocument(model, TOKENIZER_CONFIG_FILE) ?? { tokenizer_class: "PreTrainedTokenizerFast" };
  const describe = ({ id, content, flags }: AddedToken) => [String(id), { content, ...flags }] as const;
  return { ...own, added_tokens_decoder: Object.fromEntries(merged.vocabulary.added.map(describe)) };
}

const SPECIAL_NAMES =
  "bos_token eos_token unk_token sep_token pad_token cls_token mask_token additional_special_tokens";

/** The model's own map, else what its settings say of the same names. */
function specialTokens(model: MergeModel): Record<string, unknown> {
  const own = readDocument(model, SPECIAL_TOKENS_FILE);
  if (own !== undefined) return { ...own };
  const settings = readDocument(model, TOKENIZER_CONFIG_FILE) ?? {};
  return Object.fromEntries(
    SPECIAL_NAMES.split(" ").flatMap((name) => (settings[name] == null ? [] : [[name, settings[name]]])),
  );
}
