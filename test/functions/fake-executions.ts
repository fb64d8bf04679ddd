// Step Functions as far as starting goes: a name with the same input while it runs is the same execution, a name that
// was used otherwise is refused.
import { ExecutionAlreadyExists, type StartExecutionCommand } from "@aws-sdk/client-sfn";
import type { ExecutionClient } from "../../functions/executions.ts";
import { type PlanInput, planInputSchema } from "../../steps/schemas.ts";

export const STATE_MACHINE = "arn:aws:states:eu-west-1:111122223333:stateMachine:mergeyard";

export type FakeExecutions = ExecutionClient & {
  /** By name, in the order of their start. */
  readonly started: ReadonlyMap<string, PlanInput>;
  /** Names of all requests. */
  readonly asked: readonly string[];
  /** Pipelines whose starts fail. */
  readonly failing: Set<string>;
  /** Every execution so far has ended. */
  endAll(): void;
};

export function fakeExecutions(): FakeExecutions {
  const started = new Map<string, PlanInput>();
  const running = new Map<string, string>();
  const asked: string[] = [];
  const failing = new Set<string>();
  return {
    started,
    asked,
    failing,
    endAll: () => running.clear(),
    async send({ input: { name = "", input = "", stateMachineArn } }: StartExecutionCommand) {
      if (stateMachineArn !== STATE_MACHINE) throw new Error(`no such state machine: ${stateMachineArn}`);
      if (!/^[A-Za-z0-9_-]{1,80}$/.test(name)) throw new Error(`InvalidName: ${name}`);
      asked.push(name);
      const parsed = planInputSchema.parse(JSON.parse(input));
      if (failing.has(parsed.pipeline.key)) throw new Error("ThrottlingException");
      if (running.get(name) === input) return {};
      if (started.has(name)) throw new ExecutionAlreadyExists({ message: name, $metadata: {} });
      started.set(name, parsed);
      running.set(name, input);
      return {};
    },
  };
}
