// Added tokens are found in the text before anything else cuts it: the leftmost first, of those the longest.
// Source: the tokenizers library, AddedVocabulary.
import type { AddedToken } from "../tokenizer.ts";

/** A part of a text: a token, or text between tokens. `start`: where it begins in the text. */
export type Part = { readonly text: string; readonly start: number; readonly id?: number };

type Node = { readonly next: Map<string, Node>; token?: AddedToken };

/** Finds tokens by their contents, which `written` may change first, as the text is changed in which they are found. */
export function createFinder(tokens: readonly AddedToken[], written: (content: string) => string) {
  const root: Node = { next: new Map() };
  for (const token of tokens) {
    let node = root;
    for (const unit of written(token.content).split("")) {
      const known = node.next.get(unit) ?? { next: new Map() };
      node.next.set(unit, known);
      node = known;
    }
    if (node !== root) node.token ??= token;
  }
  return (text: string): readonly Part[] => (root.next.size === 0 ? [{ text, start: 0 }] : cut(text, root));
}

function cut(text: string, root: Node): readonly Part[] {
  const parts: Part[] = [];
  let done = 0;
  const take = (start: number, stop: number, id?: number): void => {
    if (start < stop) parts.push({ text: text.slice(start, stop), start, ...(id === undefined ? {} : { id }) });
  };
  for (let at = 0; at < text.length; ) {
    const found = longestAt(text, at, root);
    if (found === undefined) {
      at += 1;
      continue;
    }
    const { token, stop } = found;
    const { single_word: isWord, lstrip, rstrip } = token.flags;
    if (!isWord || !touchesWord(text, at, stop)) {
      let start = at;
      while (lstrip && start > done && SPACE.test(text.charAt(start - 1))) start -= 1;
      take(done, start);
      done = stop;
      while (rstrip && SPACE.test(text.charAt(done))) done += 1;
      take(start, done, token.id);
    }
    at = stop;
  }
  take(done, text.length);
  return parts;
}

function longestAt(text: string, at: number, root: Node): { token: AddedToken; stop: number } | undefined {
  let [node, found]: [Node | undefined, { token: AddedToken; stop: number } | undefined] = [root, undefined];
  for (let stop = at; node !== undefined; stop += 1) {
    if (node.token !== undefined) found = { token: node.token, stop };
    node = node.next.get(text.charAt(stop));
  }
  return found;
}

const SPACE = /\p{White_Space}/u;
/** What words are made of, in Rust's regular expressions. */
const WORD = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u;

function touchesWord(text: string, start: number, stop: number): boolean {
  const before = Array.from(text.slice(Math.max(0, start - 2), start)).at(-1) ?? "";
  return WORD.test(before) || WORD.test(Array.from(text.slice(stop, stop + 2))[0] ?? "");
}
