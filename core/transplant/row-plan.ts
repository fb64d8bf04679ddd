// What each row of a transplanted matrix becomes.
import { NO_ROW, type TokenMatches } from "./match-tokens.ts";

/** Rows of the base that also stand for a token that is not the same. */
export type AllowedMatches = { readonly byte: boolean; readonly prefix: boolean };

/** Of tokens that neither model gives a row for: the mean of the base's rows. */
export const MEAN_ROW = -1;
/** Of the first target; later ones count down. */
export const FIRST_TARGET = -2;

export type RowPlan = {
  /** By the donor's ids: a row of the base, MEAN_ROW, or FIRST_TARGET - i for the i-th target. */
  readonly rows: Int32Array;
  /** Rows of the donor, ascending, of tokens that the base has no row for. */
  readonly targets: Int32Array;
  readonly counts: { readonly same: number; readonly byte: number; readonly prefix: number; readonly unknown: number };
};

/** Combinations of rows of the base by target: those of target i from `starts[i]` to `starts[i + 1]`. */
export type Combinations = {
  readonly starts: Int32Array;
  readonly rows: Int32Array;
  readonly weights: Float64Array;
};

/** `donorRows` are those of the donor's matrix: tokens from there on have none to be approximated by. */
export function planRows(
  { isToken, same, byte, prefix }: TokenMatches,
  { byte: bytes, prefix: prefixes }: AllowedMatches,
  donorRows: number,
): RowPlan {
  const rows = new Int32Array(isToken.length);
  const targets: number[] = [];
  const counts = { same: 0, byte: 0, prefix: 0, unknown: 0 };
  const kinds = [
    ["same", same],
    ...(bytes ? ([["byte", byte]] as const) : []),
    ...(prefixes ? ([["prefix", prefix]] as const) : []),
  ] as const;
  for (let id = 0; id < rows.length; id++) {
    const [kind, found] = kinds.find(([, own]) => own[id] !== NO_ROW) ?? [];
    if (kind !== undefined && found !== undefined) {
      rows[id] = found[id] ?? 0;
      counts[kind] += 1;
    } else if (isToken[id] === 1 && id < donorRows) {
      rows[id] = FIRST_TARGET - targets.length;
      targets.push(id);
    } else {
      rows[id] = MEAN_ROW;
      counts.unknown += 1;
    }
  }
  return { rows, targets: Int32Array.from(targets), counts };
}

/** Tokens that both models have a row for: the donor's, ascending, and the base's. */
export function sharedRows(
  { same }: TokenMatches,
  donorRows: number,
): { readonly donor: Int32Array; readonly base: Int32Array } {
  const donor = Int32Array.from(same.keys().filter((id) => same[id] !== NO_ROW && id < donorRows));
  return { donor, base: donor.map((id) => same[id] ?? 0) };
}
