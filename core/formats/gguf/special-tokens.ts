// Ids of special tokens as entries of a GGUF file, and what readers put around a text by themselves: from the settings'
// own names, the config, and the template that tokenizer.json has for a text. Called for both kinds of tokenizers.
// Source: llama.cpp, gguf-py, gguf/vocab.py (SpecialVocab) and conversion/base.py (does_token_look_special).
import * as z from "zod";
import { MergeyardError } from "../../error.ts";
import { parseAs } from "../../parse-as.ts";
import { findFamily } from "./text-model.ts";
import type { GgufValue } from "./type-codes.ts";

/** Documents of a tokenizer, parsed. */
export type SpecialSource = {
  readonly tokenizerJson: unknown;
  readonly settings: Readonly<Record<string, unknown>> | undefined;
  readonly config: Readonly<Record<string, unknown>> | undefined;
};

/** Kinds of special tokens, and what a GGUF key calls them. */
const KEYS = {
  bos: "bos_token_id",
  eos: "eos_token_id",
  unk: "unknown_token_id",
  sep: "seperator_token_id",
  pad: "padding_token_id",
  cls: "cls_token_id",
  mask: "mask_token_id",
  eot: "eot_token_id",
} as const;
type Kind = keyof typeof KEYS;
const KINDS: readonly Kind[] = ["bos", "eos", "unk", "sep", "pad", "cls", "mask", "eot"];

const id = z.coerce.number().int().nonnegative();
const piece = z.looseObject({
  SpecialToken: z.looseObject({ id: z.string() }).nullish(),
  Sequence: z.looseObject({ id: z.string() }).nullish(),
});
type TemplatePiece = z.output<typeof piece>;
const processor = z.looseObject({
  type: z.string(),
  single: z.array(piece).nullish(),
  pair: z.array(piece).nullish(),
});
const documentSchema = z.looseObject({
  added_tokens: z.array(z.looseObject({ id, content: z.string() })).nullish(),
  post_processor: processor.extend({ processors: z.array(processor).nullish() }).nullish(),
});
const named = z.union([z.string(), z.looseObject({ content: z.string() }).transform(({ content }) => content)]);

/** Entries by key, for a model of so many rows. Throws QuantizeTokenizerUnsupported: a document of another form. */
export function describeSpecialTokens(
  { tokenizerJson, settings, config }: SpecialSource,
  rows: number,
): readonly (readonly [string, GgufValue])[] {
  const known = parseAs(documentSchema, tokenizerJson ?? {}, (field, found) => {
    const where = { file: "tokenizer.json", field };
    return new MergeyardError("QuantizeTokenizerUnsupported", { where, found, expected: "tokens and ids" });
  });
  const names = new Map(KINDS.map((kind) => [kind, named.safeParse(settings?.[`${kind}_token`]).data]));
  const adds = new Map<Kind, boolean>();
  const family = findFamily(config);
  const processors = known.post_processor?.processors ?? [known.post_processor ?? { type: "none" }];
  const template = processors.find(({ type }) => type === "TemplateProcessing");
  readTemplate(template?.single ?? [], template?.pair ?? [], names, adds);
  const ids = KINDS.flatMap((kind) => {
    const idOf = (token: string | undefined) => known.added_tokens?.find(({ content }) => content === token)?.id;
    const stated = config?.[`${kind}_token_id`];
    const own = idOf(names.get(kind)) ?? (Array.isArray(stated) ? stated[0] : stated) ?? idOf(family?.special?.[kind]);
    const found = id.max(rows - 1).safeParse(own);
    return found.success ? [[KEYS[kind], { kind: "u32", value: found.data } as const] as const] : [];
  });
  for (const kind of KINDS) {
    const stated = settings?.[`add_${kind}_token`];
    if (typeof stated === "boolean") adds.set(kind, stated);
  }
  const flags = [...adds].map(([kind, value]) => [`add_${kind}_token`, { kind: "bool", value } as const] as const);
  return [...ids, ...flags].map(([key, value]) => [`tokenizer.ggml.${key}`, value]);
}

/** What a text, and two of them, have around them: names that no setting gives, and what is to be added. */
function readTemplate(
  single: readonly TemplatePiece[],
  pair: readonly TemplatePiece[],
  names: Map<Kind, string | undefined>,
  adds: Map<Kind, boolean>,
): void {
  const first = single.length > 1 ? single[0]?.SpecialToken?.id : undefined;
  const last = single.length > 1 ? single.at(-1)?.SpecialToken?.id : undefined;
  if (first !== undefined) {
    if (names.get("bos") === undefined) names.set("bos", first);
    adds.set("bos", first === names.get("bos") || first === names.get("cls"));
  }
  if (last !== undefined) {
    const eos = names.get("eos");
    if (eos !== last) names.set("eos", last).set("eot", eos);
    adds.set("eos", true);
  }
  const start = first !== undefined && pair[0]?.SpecialToken?.id === first ? 1 : 0;
  const end = last !== undefined && pair.at(-1)?.SpecialToken?.id === last ? -1 : pair.length;
  const inner = pair.slice(start, end);
  if (inner.length < 3 || inner[0]?.Sequence?.id !== "A" || inner.at(-1)?.Sequence?.id !== "B") return;
  const parts = (at: number) => {
    const token = inner[at]?.SpecialToken?.id;
    return token !== undefined && (token === names.get("sep") || token === names.get("eos"));
  };
  adds.set("sep", (parts(1) && last === undefined) || (inner.length === 4 && parts(2)));
}

/** Names by which models call special tokens although no file says that they are. */
export function looksSpecial(token: string): boolean {
  if (["<pad>", "<mask>", "<2mass>", "[@BOS@]"].includes(token)) return true;
  const isMarked = token.startsWith("<|") && token.endsWith("|>");
  const isWide = token.startsWith("<\uff5c") && token.endsWith("\uff5c>");
  return isMarked || isWide || (token.startsWith("<unused") && token.endsWith(">"));
}
