// Starting executions of the state machine, each under a name that only its cause has. Step Functions answers the same
// name and input with the execution that is running, and refuses the name for 90 days after it ended: told twice, an
// event starts nothing twice.
import { SFNClient, StartExecutionCommand } from "@aws-sdk/client-sfn";
import * as z from "zod";
import type { Start } from "../steps/pipeline-starts.ts";
import type { StepDeps } from "../steps/step.ts";

/** Of the client, what starting needs. */
export type ExecutionClient = {
  send(command: StartExecutionCommand, options: { abortSignal: AbortSignal }): Promise<unknown>;
};

const environmentSchema = z.object({
  MERGEYARD_YARD: z.string().min(1),
  MERGEYARD_STATE_MACHINE: z.string().min(1),
});

/** What a function that starts executions has from its environment. */
export type Trigger = {
  readonly yard: string;
  /** Starts all; one that is refused does not keep the others from starting. Throws the first failure after that. */
  readonly startAll: (starts: readonly Start[], deps: StepDeps) => Promise<void>;
};

export function createExecutionClient(): ExecutionClient {
  return new SFNClient({});
}

/** Throws when the environment lacks a variable. */
export function readTrigger(
  environment: Readonly<Record<string, string | undefined>>,
  client: ExecutionClient,
): Trigger {
  const { MERGEYARD_YARD: yard, MERGEYARD_STATE_MACHINE: machine } = environmentSchema.parse(environment);
  return { yard, startAll: (starts, deps) => startAll(machine, client, starts, deps) };
}

async function startAll(
  stateMachineArn: string,
  client: ExecutionClient,
  starts: readonly Start[],
  { log, signal }: StepDeps,
): Promise<void> {
  const results = await Promise.allSettled(
    starts.map(async ({ name, input }) => {
      const command = new StartExecutionCommand({ stateMachineArn, name, input: JSON.stringify(input) });
      const started = await client.send(command, { abortSignal: signal }).then(
        () => true,
        (error: unknown) => {
          if (error instanceof Error && error.name === "ExecutionAlreadyExists") return false;
          throw error;
        },
      );
      log({ event: started ? "execution-started" : "execution-known", name, pipeline: input.pipeline.key });
    }),
  );
  for (const result of results) if (result.status === "rejected") throw result.reason;
}
