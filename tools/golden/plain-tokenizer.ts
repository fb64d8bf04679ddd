// The stand-in tokenizers of golden cases: a vocabulary map and nothing else, `{"vocab": {...}, "added": {...}}`.
import * as z from "zod";
import { PLAIN_FLAGS, type Tokenizer, type Vocabulary } from "../../core/tokenizer/tokenizer.ts";

const ids = z.record(z.string(), z.int().nonnegative());
const plainSchema = z.strictObject({ vocab: ids, added: ids });

/** Reads a stand-in tokenizer; it takes any token at any id. */
export function readPlainTokenizer(bytes: Uint8Array): Tokenizer {
  const { vocab, added } = plainSchema.parse(JSON.parse(Buffer.from(bytes).toString()));
  return {
    vocabulary: {
      ids: new Map(Object.entries({ ...vocab, ...added })),
      added: Object.entries(added).map(([content, id]) => ({ content, id, flags: PLAIN_FLAGS })),
    },
    model: "plain",
    takesTokens: true,
    merges: [],
    join: (pair) => pair.join(""),
    splitting: "",
    write: ({ ids: merged, added: tokens }) => {
      const special = new Set(tokens.map(({ content }) => content));
      const ordinary = [...merged].filter(([token]) => !special.has(token));
      return JSON.stringify({
        vocab: Object.fromEntries(ordinary),
        added: Object.fromEntries(tokens.map(({ content, id }) => [content, id])),
      });
    },
  };
}

/** Ids of every token of a stand-in's text. */
export function plainIds(text: string): Vocabulary["ids"] {
  return readPlainTokenizer(Buffer.from(text)).vocabulary.ids;
}
