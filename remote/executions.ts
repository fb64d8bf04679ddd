// Executions of the deployed state machine: starting one, finding those that run, following and ending them. Everything
// but the run's name and its jobs is read from the yard, for Step Functions answers only some ten requests a second.
import {
  DescribeExecutionCommand,
  type ExecutionStatus,
  GetExecutionHistoryCommand,
  type HistoryEvent,
  ListExecutionsCommand,
  SFNClient,
  StartExecutionCommand,
  StopExecutionCommand,
} from "@aws-sdk/client-sfn";
import * as z from "zod";
import { MergeyardError } from "../core/error.ts";
import { parseJson } from "../core/json.ts";
import { ask } from "./aws-errors.ts";

export type Execution = { readonly arn: string; readonly name: string; readonly startedMs: number };

export type ExecutionState = Execution & {
  readonly status: ExecutionStatus;
  /** JSON text; of one that succeeded. */
  readonly output: string | undefined;
  readonly error: string | undefined;
  readonly cause: string | undefined;
};

/** Of what the plan step gave, what is needed here: a deployment of another version gives more, or less. */
const planSchema = z.looseObject({ run: z.string(), outcome: z.string() });
type Planned = z.infer<typeof planSchema>;

export type Executions = {
  /** The state machine's name: part of its executions' ARNs. */
  readonly machineArn: string;
  /** Undefined when an execution of this name has ended before. */
  start(name: string, input: object): Promise<Execution | undefined>;
  /** The running ones, newest first. */
  listRunning(): Promise<readonly Execution[]>;
  describe(arn: string): Promise<ExecutionState>;
  /** What the plan step gave; undefined until it has. */
  readPlan(arn: string): Promise<Planned | undefined>;
  /** Batch jobs that it has submitted, the last one first. */
  listJobs(arn: string): Promise<readonly string[]>;
  stop(arn: string): Promise<void>;
};

export type AwsSettings = {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly signal: AbortSignal;
};

const MACHINE_ARN = /^arn:aws[a-z-]*:states:([a-z0-9-]+):\d{12}:stateMachine:[\w-]+$/;

/** The region in a state machine's ARN. Throws RemoteMachineMissing. */
export function regionOf(machineArn: string | undefined): string {
  const region = MACHINE_ARN.exec(machineArn ?? "")?.[1];
  if (region === undefined) throw new MergeyardError("RemoteMachineMissing", { found: machineArn ?? "nothing" });
  return region;
}

/** Requests throw RemoteUnavailable and RemoteRefused. */
export function openExecutions(machineArn: string, { env, signal }: AwsSettings): Executions {
  const endpoint = env.AWS_ENDPOINT_URL_SFN || env.AWS_ENDPOINT_URL || undefined;
  const client = new SFNClient({ region: regionOf(machineArn), ...(endpoint === undefined ? {} : { endpoint }) });
  const options = { abortSignal: signal };
  const start = async (name: string, input: object): Promise<Execution | undefined> => {
    const command = new StartExecutionCommand({ stateMachineArn: machineArn, name, input: JSON.stringify(input) });
    return ask("states:StartExecution", signal, async () => {
      try {
        const { executionArn = "", startDate } = await client.send(command, options);
        return { arn: executionArn, name, startedMs: startDate?.getTime() ?? 0 };
      } catch (error) {
        if (error instanceof Error && error.name === "ExecutionAlreadyExists") return undefined;
        throw error;
      }
    });
  };
  const listRunning = async (): Promise<readonly Execution[]> => {
    const found: Execution[] = [];
    let nextToken: string | undefined;
    do {
      const command = new ListExecutionsCommand({
        stateMachineArn: machineArn,
        statusFilter: "RUNNING",
        ...(nextToken === undefined ? {} : { nextToken }),
      });
      const page = await ask("states:ListExecutions", signal, () => client.send(command, options));
      for (const { executionArn: arn = "", name = "", startDate } of page.executions ?? []) {
        found.push({ arn, name, startedMs: startDate?.getTime() ?? 0 });
      }
      nextToken = page.nextToken;
    } while (nextToken !== undefined);
    return found;
  };
  return {
    machineArn,
    start,
    listRunning,
    async describe(arn) {
      const command = new DescribeExecutionCommand({ executionArn: arn });
      const found = await ask("states:DescribeExecution", signal, () => client.send(command, options));
      const { name = "", status = "RUNNING", startDate, output, error, cause } = found;
      return { arn, name, startedMs: startDate?.getTime() ?? 0, status, output, error, cause };
    },
    async readPlan(arn) {
      const [page] = await readHistory(client, arn, { reverseOrder: false, pages: 1 }, signal);
      return (page ?? []).flatMap(planIn)[0];
    },
    async listJobs(arn) {
      const pages = await readHistory(client, arn, { reverseOrder: true, pages: PAGES_MAX }, signal);
      return pages.flat().flatMap(jobIn);
    },
    async stop(arn) {
      const command = new StopExecutionCommand({ executionArn: arn, error: "Cancelled", cause: "mergeyard cancel" });
      await ask("states:StopExecution", signal, () => client.send(command, options));
    },
  };
}

/** Pages of a history: Step Functions ends an execution at 25,000 events, in pages of at most 1000. */
const PAGES_MAX = 25;
const PAGE_EVENTS = 1000;

async function readHistory(
  client: SFNClient,
  executionArn: string,
  { reverseOrder, pages }: { readonly reverseOrder: boolean; readonly pages: number },
  signal: AbortSignal,
): Promise<readonly (readonly HistoryEvent[])[]> {
  const found: HistoryEvent[][] = [];
  let nextToken: string | undefined;
  do {
    const command = new GetExecutionHistoryCommand({
      executionArn,
      reverseOrder,
      maxResults: PAGE_EVENTS,
      includeExecutionData: true,
      ...(nextToken === undefined ? {} : { nextToken }),
    });
    const page = await ask("states:GetExecutionHistory", signal, () => client.send(command, { abortSignal: signal }));
    found.push(page.events ?? []);
    nextToken = page.nextToken;
  } while (nextToken !== undefined && found.length < pages);
  return found;
}

const payloadSchema = z.looseObject({ Payload: planSchema });
const jobSchema = z.looseObject({ JobId: z.string() });

function planIn({ taskSucceededEventDetails: details }: HistoryEvent): readonly Planned[] {
  const parsed = payloadSchema.safeParse(parseJson(details?.output ?? ""));
  return details?.resourceType === "lambda" && parsed.success ? [parsed.data.Payload] : [];
}

function jobIn({ taskSubmittedEventDetails: details }: HistoryEvent): readonly string[] {
  const parsed = jobSchema.safeParse(parseJson(details?.output ?? ""));
  return details?.resourceType === "batch" && parsed.success ? [parsed.data.JobId] : [];
}
