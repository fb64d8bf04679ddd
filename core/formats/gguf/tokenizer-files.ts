// Which tokenizer a model's files make: SentencePiece where there is a tokenizer.model, whatever lies beside it, else
// tokenizer.json. Called by whatever writes GGUF files.
// Source: llama.cpp, convert_hf_to_gguf.py: LlamaModel.set_vocab.
import * as z from "zod";
import { MergeyardError } from "../../error.ts";
import { parseJsonObject } from "../json-scan.ts";
import { describeSentencePiece } from "./sentencepiece.ts";
import { textConfigOf } from "./text-model.ts";
import { describeTokenizer } from "./tokenizer.ts";
import type { GgufMetadata, GgufValue } from "./type-codes.ts";

const MODEL = "tokenizer.model";
const DOCUMENT = "tokenizer.json";
const SETTINGS = "tokenizer_config.json";
const ADDED = "added_tokens.json";
const TEMPLATE = "chat_template.jinja";

/** What a GGUF file's tokenizer is made from. */
export const GGUF_TOKENIZER_FILES: readonly string[] = Object.freeze([MODEL, DOCUMENT, SETTINGS, ADDED, TEMPLATE]);

/** One template, or several by name, of which one is for all that the others are not for. */
const templates = z.union([
  z.string(),
  z
    .array(z.looseObject({ name: z.string(), template: z.string() }))
    .transform((all) => all.find(({ name }) => name === "default")?.template),
]);

/** Metadata of the tokenizer; undefined when the files hold none. Throws QuantizeTokenizerUnsupported. */
export function describeTokenizerFiles(
  files: ReadonlyMap<string, Uint8Array>,
  whole: Readonly<Record<string, unknown>> | undefined,
): GgufMetadata | undefined {
  const config = textConfigOf(whole);
  const [model, document, template] = [files.get(MODEL), files.get(DOCUMENT), files.get(TEMPLATE)];
  if (model === undefined && document === undefined) return undefined;
  const settings = readObject(files, SETTINGS);
  const metadata: Map<string, GgufValue> = new Map(
    model !== undefined
      ? describeSentencePiece({
          model,
          addedTokens: readObject(files, ADDED),
          tokenizerJson: readObject(files, DOCUMENT),
          settings,
          config,
        })
      : describeTokenizer({ tokenizerJson: document ?? new Uint8Array(0), tokenizerConfig: settings, config }),
  );
  const own = templates.safeParse(settings?.chat_template).data;
  const text = own ?? (template && new TextDecoder().decode(template));
  if (text !== undefined) metadata.set("tokenizer.chat_template", { kind: "string", value: text });
  return metadata;
}

function readObject(
  files: ReadonlyMap<string, Uint8Array>,
  file: string,
): Readonly<Record<string, unknown>> | undefined {
  const bytes = files.get(file);
  if (bytes === undefined) return undefined;
  return parseJsonObject(bytes, {
    pythonNumbers: true,
    refuse: ({ offset, found, expected }) =>
      new MergeyardError("QuantizeTokenizerUnsupported", { where: { file, offset }, found, expected }),
  });
}
