// Cases that must be refused: the golden set says why in its own words, and each word stands for codes of ours, so that
// a refusal for another reason is a failure.
import type { ErrorCode } from "../../core/error.ts";
import { MergeyardError } from "../../core/error.ts";
import { failed, PASSED, type Verdict } from "./case.ts";

/** A golden set's word for a reason, and the codes that mean it. */
export type Reasons = Readonly<Record<string, readonly ErrorCode[]>>;

export type Expectation = { readonly expect: string; readonly reason?: string | undefined };

/**
 * The verdict on a case: `load` runs and must agree; for "refuse" it must throw one of the reason's codes; for "either"
 * both are right.
 */
export async function judge(
  { expect, reason }: Expectation,
  reasons: Reasons,
  load: () => Promise<Verdict>,
): Promise<Verdict> {
  try {
    const verdict = await load();
    return expect === "refuse" ? failed(`accepted; must be refused: ${reason}`) : verdict;
  } catch (error) {
    if (!(error instanceof MergeyardError)) return failed(`not a typed error: ${String(error)}`);
    const codes = reasons[reason ?? ""] ?? [];
    if (codes.includes(error.code)) return PASSED;
    return failed(`${error.code}, expected ${expect === "load" ? "to load" : codes.join(" or ")}: ${error.message}`);
  }
}
