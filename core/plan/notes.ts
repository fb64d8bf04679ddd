// Warnings of a plan. The same remark about many tensors becomes one line with a few names and a count.

export type Notes = {
  /** A remark, and the tensor or file that it is about. */
  add(remark: string, about?: string): void;
  /** One line a remark, in the order of first mention. */
  list(): readonly string[];
};

/** Names that a line shows before it only counts. */
const NAMES_SHOWN = 4;

export function createNotes(): Notes {
  const remarks = new Map<string, Set<string>>();
  return {
    add(remark, about) {
      const names = remarks.get(remark) ?? new Set();
      remarks.set(remark, about === undefined ? names : names.add(about));
    },
    list: () => [...remarks].map(([remark, names]) => describe(remark, [...names])),
  };
}

function describe(remark: string, names: readonly string[]): string {
  if (names.length === 0) return remark;
  const more = names.length - NAMES_SHOWN;
  return `${remark}: ${names.slice(0, NAMES_SHOWN).join(", ")}${more > 0 ? ` and ${more} more` : ""}`;
}
