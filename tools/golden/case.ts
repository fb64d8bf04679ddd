// What a golden set yields: cases with a name and a verdict. A case is skipped only when what it needs is not
// registered.

export type Verdict =
  | { readonly status: "passed" }
  | { readonly status: "failed"; readonly why: string }
  | { readonly status: "skipped"; readonly why: string };

export type GoldenCase = { readonly id: string; run(): Promise<Verdict> };

/** One form of cases.json. `open` gives undefined when the document is of another form. */
export type GoldenSet = {
  readonly id: string;
  open(folder: string, document: unknown): readonly GoldenCase[] | undefined;
};

export const PASSED: Verdict = Object.freeze({ status: "passed" });

/** A failure with its reason. */
export function failed(why: string): Verdict {
  return { status: "failed", why };
}

/** A skip that names what is not registered. */
export function skipped(what: string): Verdict {
  return { status: "skipped", why: `${what} is not registered` };
}
