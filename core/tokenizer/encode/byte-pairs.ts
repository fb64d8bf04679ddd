// A byte-pair model: the characters of a piece, and neighbours merged as long as any pair may be, the best first.
// Source: Sennrich, Haddow, Birch, arXiv:1508.07909; the tokenizers library's BPE, for what it does with characters
// that the vocabulary lacks.
import type { TokenPair } from "../tokenizer.ts";
import type { BytePairOptions } from "./parts.ts";

export type BytePairModel = {
  readonly options: BytePairOptions;
  readonly vocabulary: ReadonlyMap<string, number>;
  /** By ids of two tokens, as one number: the merge's rank, lower is better, and the id of what it makes. */
  readonly merges: ReadonlyMap<number, { readonly rank: number; readonly id: number }>;
  /** Of a character without a token, where the token that stands for such has no id. */
  readonly refuseUnknown: (character: string) => Error;
};

/** Ids stay below this, so that a pair of them is one exact number. */
const PAIR = 2 ** 26;

/** Merges as the model needs them; the first pair of which a token is missing is reported. */
export function indexMerges(
  pairs: readonly TokenPair[],
  vocabulary: ReadonlyMap<string, number>,
  missing: (pair: TokenPair) => Error,
): BytePairModel["merges"] {
  return new Map(
    pairs.map((pair, rank) => {
      const [left, right, id] = [...pair, pair.join("")].map((token) => vocabulary.get(token));
      if (left === undefined || right === undefined || id === undefined) throw missing(pair);
      return [left * PAIR + right, { rank, id }];
    }),
  );
}

/** Ids of the tokens of a piece. Cost: n log n in its characters. */
export function encodePiece(text: string, model: BytePairModel): readonly number[] {
  const { options, vocabulary } = model;
  const whole = options.ignore_merges === true ? vocabulary.get(text) : undefined;
  return whole === undefined ? mergeAll(characterIds(text, model), model.merges) : [whole];
}

function characterIds(text: string, { options, vocabulary, refuseUnknown }: BytePairModel): number[] {
  const ids: number[] = [];
  const { unk_token: unknownToken } = options;
  let wasUnknown = false;
  for (const character of text) {
    const id = vocabulary.get(character);
    const known = id === undefined ? bytesOf(character, options, vocabulary) : [id];
    if (known !== undefined) ids.push(...known);
    // Without a token for such, an unknown character is left out.
    else if (unknownToken != null && !(wasUnknown && options.fuse_unk === true)) {
      const unknown = vocabulary.get(unknownToken);
      if (unknown === undefined) throw refuseUnknown(character);
      ids.push(unknown);
    }
    wasUnknown = known === undefined;
  }
  return ids;
}

/** A character as tokens of its bytes, `<0xE6>` and so on, where the model has them all. */
function bytesOf(
  character: string,
  { byte_fallback: falls }: BytePairOptions,
  vocabulary: ReadonlyMap<string, number>,
): readonly number[] | undefined {
  if (falls !== true) return undefined;
  const bytes = Array.from(new TextEncoder().encode(character), (byte) =>
    vocabulary.get(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`),
  );
  return bytes.every((id) => id !== undefined) ? bytes : undefined;
}

/** A pair that may be merged: its left token's place and what it makes. Ordered by rank, then place. */
type Candidate = { readonly rank: number; readonly place: number; readonly id: number };

function mergeAll(ids: number[], merges: BytePairModel["merges"]): readonly number[] {
  const previous = ids.map((_, place) => place - 1);
  const next = ids.map((_, place) => (place + 1 < ids.length ? place + 1 : -1));
  const queue = createQueue();
  const mergeAt = (place: number) => merges.get((ids[place] ?? 0) * PAIR + (ids[next[place] ?? 0] ?? 0));
  const consider = (place: number): void => {
    const found = place < 0 || (next[place] ?? -1) < 0 ? undefined : mergeAt(place);
    if (found !== undefined) queue.push({ ...found, place });
  };
  ids.forEach((_, place) => void consider(place));
  const gone = new Set<number>();
  for (let best = queue.pop(); best !== undefined; best = queue.pop()) {
    const { place, id } = best;
    const right = next[place] ?? -1;
    // Either token may have been merged since.
    if (gone.has(place) || right < 0 || mergeAt(place)?.id !== id) continue;
    ids[place] = id;
    gone.add(right);
    const after = next[right] ?? -1;
    next[place] = after;
    if (after >= 0) previous[after] = place;
    consider(previous[place] ?? -1);
    consider(place);
  }
  return ids.filter((_, place) => !gone.has(place));
}

/** A binary heap. */
function createQueue() {
  const heap: Candidate[] = [];
  const precedes = (a: number, b: number): boolean => {
    const [one, other] = [heap[a], heap[b]];
    if (one === undefined || other === undefined) return false;
    return one.rank - other.rank < 0 || (one.rank === other.rank && one.place < other.place);
  };
  const swap = (a: number, b: number): void => {
    const [one, other] = [heap[a], heap[b]];
    if (one === undefined || other === undefined) return;
    heap[a] = other;
    heap[b] = one;
  };
  return {
    push(candidate: Candidate): void {
      heap.push(candidate);
      for (let at = heap.length - 1; at > 0 && precedes(at, (at - 1) >> 1); at = (at - 1) >> 1) swap(at, (at - 1) >> 1);
    },
    pop(): Candidate | undefined {
      swap(0, heap.length - 1);
      const best = heap.pop();
      for (let at = 0; ; ) {
        const [left, right] = [2 * at + 1, 2 * at + 2];
        const child = precedes(right, left) ? right : left;
        if (!precedes(child, at)) return best;
        swap(at, child);
        at = child;
      }
    },
  };
}
