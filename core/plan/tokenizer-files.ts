// The tokenizer files of an output whose vocabulary is built: one tokenizer.json that says all, the settings and the
// special tokens of the model that the vocabulary starts from. Older forms of the same vocabulary (vocab.json,
// merges.txt, tokenizer.model, added_tokens.json) would contradict it and stay behind.
// Source of the forms: transformers' tokenizer files.
import { fileRole } from "../formats/side-files.ts";
import { stringifyPython } from "../json.ts";
import type { AddedToken } from "../tokenizer/tokenizer.ts";
import type { IndexedModel } from "./adapter.ts";
import {
  CHAT_TEMPLATE_FILE,
  readDocument,
  SPECIAL_TOKENS_FILE,
  TOKENIZER_CONFIG_FILE,
  TOKENIZER_FILE,
} from "./documents.ts";
import type { MergeModel } from "./merge-task.ts";
import type { Notes } from "./notes.ts";
import type { SideFile } from "./schema.ts";
import type { VocabularyPlan } from "./vocabulary.ts";

/** Files that hold a chat template and no vocabulary. */
const TEMPLATES: readonly string[] = [CHAT_TEMPLATE_FILE, "chat_template.json"];

/** What is written anew of a tokenizer: its vocabulary, its chat template, or both. */
export type TokenizerChanges = {
  readonly vocabulary: VocabularyPlan | undefined;
  readonly template: string | undefined;
};

/** The tokenizer files of a model, with what is written anew in place of its own. */
export function tokenizerFiles(
  { model, source }: IndexedModel,
  { vocabulary, template }: TokenizerChanges,
  notes: Notes,
): readonly SideFile[] {
  const text = (name: string, content: string): SideFile => ({ from: "text", name, text: content });
  const files = model.checkpoint.sideFiles
    .filter(({ name }) => fileRole(name) === "tokenizer")
    .map(({ name, bytes }): SideFile => ({ from: "source", name, source, file: name, bytes }));
  const made = [...(model.checkpoint.documents ?? [])]
    .filter(([name]) => fileRole(name) === "tokenizer" && files.every((file) => file.name !== name))
    .map(([name, content]) => describeFile(name, content));
  const own = [...files, ...made];
  const rebuilt = vocabulary?.merged.unchanged === false ? vocabulary : undefined;
  const hasConfig = rebuilt !== undefined || own.some(({ name }) => name === TOKENIZER_CONFIG_FILE);
  const changes = rebuilt !== undefined || template !== undefined;
  const written = [
    ...(rebuilt === undefined ? [] : writeVocabulary(model, rebuilt)),
    ...(template === undefined ? [] : [text(CHAT_TEMPLATE_FILE, template)]),
    ...(hasConfig && changes
      ? [text(TOKENIZER_CONFIG_FILE, stringifyPython(tokenizerConfig(model, rebuilt, template)))]
      : []),
  ];
  const kept = own.filter(({ name }) => {
    if (written.some((file) => file.name === name)) return false;
    if (TEMPLATES.includes(name)) return template === undefined;
    if (rebuilt !== undefined) notes.add("tokenizer.json holds the new vocabulary: older forms are not copied", name);
    return rebuilt === undefined;
  });
  return [...written, ...kept];
}

function describeFile(name: string, content: Uint8Array): SideFile {
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(content);
    return { from: "text", name, text };
  } catch {
    return { from: "text", name, text: Buffer.from(content).toString("base64"), encoding: "base64" };
  }
}

function writeVocabulary(model: MergeModel, { tokenizer, merged }: VocabularyPlan): readonly SideFile[] {
  return [
    { from: "text", name: TOKENIZER_FILE, text: tokenizer.write(merged.vocabulary, merged.merges) },
    { from: "text", name: SPECIAL_TOKENS_FILE, text: stringifyPython(specialTokens(model)) },
  ];
}

/** Ids of added tokens are said here too, and win over tokenizer.json when transformers loads the folder. */
function tokenizerConfig(
  model: MergeModel,
  rebuilt: VocabularyPlan | undefined,
  template: string | undefined,
): Record<string, unknown> {
  const own = readDocument(model, TOKENIZER_CONFIG_FILE) ?? { tokenizer_class: "PreTrainedTokenizerFast" };
  const describe = ({ id, content, flags }: AddedToken) => [String(id), { content, ...flags }] as const;
  const added = rebuilt && { added_tokens_decoder: Object.fromEntries(rebuilt.merged.vocabulary.added.map(describe)) };
  return { ...own, ...added, ...(template === undefined ? {} : { chat_template: template }) };
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
