// Expressions that tokenizers cut text with, exactly as published files spell them. No other is run: a hostile
// expression could take for ever. They are Oniguruma's; the same in ECMAScript but for what counts as a space.
// Source: tokenizer.json of the models that are named.

const CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const SPACES = String.raw`\s*[\r\n]+|\s+(?!\S)|\s+`;

/** Of GPT-2, which byte-level tokenizers cut by unless they say another. */
const GPT2 = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;

const PATTERNS: readonly string[] = [
  GPT2,
  // Llama 3
  String.raw`${CONTRACTIONS}|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|${SPACES}`,
  // Qwen2, Qwen3
  String.raw`${CONTRACTIONS}|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|${SPACES}`,
  // Mistral NeMo and later
  String.raw`[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|` +
    String.raw`[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|` +
    String.raw`\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|${SPACES}`,
  // DeepSeek LLM and Coder, of the Llama form
  String.raw`[\r\n]`,
  String.raw`\s?\p{L}+`,
  String.raw`\s?\p{P}+`,
  "[一-龥ࠀ-一가-퟿]+",
];

const COMPILED: ReadonlyMap<string, RegExp> = new Map(PATTERNS.map((pattern) => [pattern, compile(pattern)]));

/** In Oniguruma a space is what Unicode says: U+0085 is one, U+FEFF is none. */
function compile(pattern: string): RegExp {
  return new RegExp(pattern.replaceAll("\\s", "\\p{White_Space}").replaceAll("\\S", "\\P{White_Space}"), "gu");
}

export const GPT2_PATTERN = compile(GPT2);

/** The expression of a published pattern; undefined for any other. */
export function splitPattern(pattern: string): RegExp | undefined {
  return COMPILED.get(pattern);
}
