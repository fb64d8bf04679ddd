// Text on its way to a byte-pair model: normalized, and cut into pieces that tokens do not cross.
// Source: the tokenizers library, normalizers and pre_tokenizers.
import { BYTE_CHARACTERS } from "../byte-level.ts";
import type { Normalizer, PreTokenizer } from "./parts.ts";
import { GPT2_PATTERN } from "./split-patterns.ts";

/** A piece of text; `isFirst`: the text begins with it. */
export type Piece = { readonly text: string; readonly isFirst: boolean };

/** A pre-tokenizer that is ready to run. */
export type Cut = (piece: Piece) => readonly Piece[];

export function normalize(text: string, steps: readonly Normalizer[]): string {
  return steps.reduce((own, step) => {
    switch (step.type) {
      case "Prepend":
        return own === "" ? own : step.prepend + own;
      case "Replace":
        return own.replaceAll(step.pattern.String, () => step.content);
      case "Lowercase":
        return own.toLowerCase();
      default:
        return own.normalize(step.type);
    }
  }, text);
}

/** `patternOf`: the expression of a pattern, or a refusal of it. */
export function createCut(step: PreTokenizer, patternOf: (pattern: string) => RegExp): Cut {
  switch (step.type) {
    case "Split": {
      const { pattern, behavior, invert } = step;
      const matcher = "String" in pattern ? new RegExp(RegExp.escape(pattern.String), "gu") : patternOf(pattern.Regex);
      const isDropped = (isMatch: boolean): boolean => behavior === "Removed" && isMatch !== invert;
      return (piece) => cutBy(piece, matcher, isDropped);
    }
    case "Digits":
      return (piece) => cutBy(piece, step.individual_digits ? /\p{N}/gu : /\p{N}+/gu);
    case "ByteLevel":
      return ({ text, isFirst }) => {
        const spaced = { text: step.add_prefix_space && !text.startsWith(" ") ? ` ${text}` : text, isFirst };
        const pieces = step.use_regex ? cutBy(spaced, GPT2_PATTERN) : [spaced];
        return pieces.map((piece) => ({ ...piece, text: toByteLevel(piece.text) }));
      };
    case "Metaspace":
      return createMetaspace(step);
  }
}

/** Matches and what is between them, empty pieces left out. */
function cutBy({ text, isFirst }: Piece, matcher: RegExp, isDropped = (_: boolean) => false): readonly Piece[] {
  const pieces: Piece[] = [];
  let end = 0;
  const take = (start: number, stop: number, isMatch: boolean): void => {
    if (start < stop && !isDropped(isMatch))
      pieces.push({ text: text.slice(start, stop), isFirst: isFirst && start === 0 });
  };
  for (const { index, 0: match } of text.matchAll(matcher)) {
    take(end, index, false);
    take(index, index + match.length, true);
    end = index + match.length;
  }
  take(end, text.length, false);
  return pieces;
}

function createMetaspace(step: Extract<PreTokenizer, { type: "Metaspace" }>): Cut {
  const { replacement, str_rep: written = replacement, split } = step;
  const scheme = step.prepend_scheme ?? (step.add_prefix_space ? "always" : "never");
  return ({ text, isFirst }) => {
    const marked = text.replaceAll(" ", () => written);
    const prepends = !marked.startsWith(replacement) && (scheme === "always" || (scheme === "first" && isFirst));
    const own = { text: prepends ? written + marked : marked, isFirst };
    if (!split) return [own];
    // Each mark goes with what follows it.
    return own.text
      .split(new RegExp(`(?=${RegExp.escape(replacement)})`, "u"))
      .map((part, index) => ({ text: part, isFirst: isFirst && index === 0 }));
  };
}

function toByteLevel(text: string): string {
  return Array.from(new TextEncoder().encode(text), (byte) => BYTE_CHARACTERS[byte]).join("");
}
