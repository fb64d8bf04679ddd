// A loaded state machine: checked, its expressions compiled. Made by load.ts, run by execute.ts.
import type { Digest } from "../../core/artifact/digest.ts";
import type { Template } from "./expression.ts";
import type { RetrierDocument } from "./schema.ts";

/** Variable name → what it becomes. All are evaluated before any is assigned. */
export type Assignment = ReadonlyMap<string, Template>;

/** What every state but Fail may do with its result. */
export type Results = { readonly output: Template | undefined; readonly assign: Assignment };

type Named = { readonly name: string; readonly variables: ReadonlySet<string> };
/** The state after this one; null ends the machine (or the branch). */
type Exit = { readonly next: string | null };

export type Catcher = Results & { readonly errorEquals: readonly string[]; readonly next: string };
export type Handlers = { readonly retry: readonly RetrierDocument[]; readonly catch: readonly Catcher[] };

export type PassState = Named & Results & Exit & { readonly type: "Pass" };
export type SucceedState = Named & Results & { readonly type: "Succeed" };
export type FailState = Named & {
  readonly type: "Fail";
  readonly error: Template | undefined;
  readonly cause: Template | undefined;
};
export type WaitState = Named &
  Results &
  Exit & {
    readonly type: "Wait";
    readonly seconds: Template | undefined;
    readonly timestamp: Template | undefined;
  };
export type ChoiceRule = Results & { readonly condition: Template; readonly next: string };
export type ChoiceState = Named &
  Results & {
    readonly type: "Choice";
    readonly rules: readonly ChoiceRule[];
    readonly default: string | undefined;
  };
export type TaskState = Named &
  Results &
  Exit &
  Handlers & {
    readonly type: "Task";
    readonly resource: string;
    readonly arguments: Template | undefined;
    readonly timeoutSeconds: Template | undefined;
    readonly heartbeatSeconds: Template | undefined;
  };
export type ParallelState = Named &
  Results &
  Exit &
  Handlers & {
    readonly type: "Parallel";
    readonly arguments: Template | undefined;
    readonly branches: readonly StateTable[];
  };
export type MapState = Named &
  Results &
  Exit &
  Handlers & {
    readonly type: "Map";
    readonly items: Template | undefined;
    readonly itemSelector: Template | undefined;
    readonly maxConcurrency: Template;
    readonly distributed: boolean;
    readonly processor: StateTable;
  };

/**
 * `variables` of a state are those that any of its expressions reads, the states inside it included: together with the
 * input they decide what the state does.
 */
export type State =
  | PassState
  | SucceedState
  | FailState
  | WaitState
  | ChoiceState
  | TaskState
  | ParallelState
  | MapState;

export type StateTable = { readonly startAt: string; readonly states: ReadonlyMap<string, State> };

export type Machine = StateTable & {
  /** Digest of the definition: a journal written under another one is never replayed. */
  readonly digest: Digest;
  readonly timeoutSeconds: number | undefined;
};
