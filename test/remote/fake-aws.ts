// Step Functions and Batch as their HTTP interfaces are documented, played by one server of this process. An execution
// runs the real steps on the real yard, stage by stage, with the worker's own entry; a test may hold it before a stage.
import assert from "node:assert/strict";
import http from "node:http";
import * as z from "zod";
import { checkStep } from "../../steps/check.ts";
import { describeError } from "../../steps/error-record.ts";
import { notifyStep } from "../../steps/notify.ts";
import { planStep } from "../../steps/plan.ts";
import { publishStep } from "../../steps/publish.ts";
import { recordFailureStep } from "../../steps/record-failure.ts";
import { runStep } from "../../steps/step.ts";
import type { OpenStore } from "../../stores/store.ts";
import { runJob } from "../../workers/main.ts";
import { listen } from "../listen.ts";
import { testDeps } from "../steps/deps.ts";
import { createInThreadExecutor } from "../steps/in-thread-executor.ts";

export const MACHINE = "arn:aws:states:eu-west-1:111122223333:stateMachine:mergeyard-test";

type Played = {
  readonly name: string;
  readonly arn: string;
  readonly input: string;
  status: "RUNNING" | "SUCCEEDED" | "FAILED" | "ABORTED";
  output?: string;
  error?: string;
  cause?: string;
  readonly events: object[];
  readonly jobs: string[];
};

const requestSchema = z.looseObject({
  name: z.string().default(""),
  input: z.string().default(""),
  executionArn: z.string().default(""),
  jobs: z.array(z.string()).default([]),
  jobId: z.string().default(""),
});
type Request = z.infer<typeof requestSchema>;

type Answers = Readonly<Record<string, (input: Request) => object>>;

/** An answer that is an error. */
class Refusal extends Error {
  readonly status: number;
  constructor(name: string, status = 400) {
    super(name);
    this.name = name;
    this.status = status;
  }
}

export async function playAws(openStore: OpenStore) {
  const executions = new Map<string, Played>();
  const jobs = new Map<string, string>();
  const terminated: string[] = [];
  const asked: string[] = [];
  const script = {
    /** What the functions answer, as it is when they are of another version. */
    answer: (value: object): object => value,
    /** Awaited before each stage of every execution. */
    beforeStage: async (_stage: number): Promise<void> => undefined,
    /** Errors of the next requests, one each. */
    refusals: [] as Refusal[],
  };
  const find = (arn: string): Played => {
    const found = [...executions.values()].find((execution) => execution.arn === arn);
    if (found === undefined) throw new Refusal("ExecutionDoesNotExist");
    return found;
  };
  const answers: Answers = {
    StartExecution({ name, input }) {
      const known = executions.get(name);
      if (known !== undefined && (known.status !== "RUNNING" || known.input !== input)) {
        throw new Refusal("ExecutionAlreadyExists");
      }
      const arn = `${MACHINE.replace("stateMachine", "execution")}:${name}`;
      const execution: Played = known ?? { name, arn, input, status: "RUNNING", events: [], jobs: [] };
      if (known === undefined) void play(execution, openStore, script, jobs);
      executions.set(name, execution);
      return { executionArn: arn, startDate: 1 };
    },
    ListExecutions: () => ({
      executions: [...executions.values()]
        .filter(({ status }) => status === "RUNNING")
        .map(({ arn, name, status }) => ({ executionArn: arn, name, status, startDate: 1 })),
    }),
    DescribeExecution({ executionArn }) {
      const { arn, name, status, output, error, cause } = find(executionArn);
      return { executionArn: arn, name, status, output, error, cause, startDate: 1 };
    },
    GetExecutionHistory: ({ executionArn }) => ({ events: find(executionArn).events }),
    StopExecution({ executionArn }) {
      find(executionArn).status = "ABORTED";
      return { stopDate: 1 };
    },
    "/v1/describejobs": (input) => ({
      jobs: input.jobs.map((jobId) => ({ jobId, jobName: "j", jobQueue: "q", status: jobs.get(jobId) ?? "RUNNING" })),
    }),
    "/v1/terminatejob"({ jobId }) {
      terminated.push(jobId);
      return {};
    },
  };
  const server = createServer(answers, asked, script.refusals);
  const endpoint = await listen(server);
  process.env.AWS_ACCESS_KEY_ID ??= "test";
  process.env.AWS_SECRET_ACCESS_KEY ??= "test";
  const env = { AWS_ENDPOINT_URL_SFN: endpoint, AWS_ENDPOINT_URL_BATCH: endpoint, MERGEYARD_STATE_MACHINE: MACHINE };
  const refuse = (name: string, status = 400, times = 1) => {
    for (let count = 0; count < times; count += 1) script.refusals.push(new Refusal(name, status));
  };
  return { env, executions, jobs, terminated, asked, script, refuse };
}

/** Answers requests by their target (Step Functions) or path (Batch). */
function createServer(answers: Answers, asked: string[], refusals: Refusal[]): http.Server {
  return http.createServer(async (request, response) => {
    let text = "";
    for await (const part of request) text += part;
    const target = request.headers["x-amz-target"];
    const name = typeof target === "string" ? target.replace("AWSStepFunctions.", "") : (request.url ?? "");
    asked.push(name);
    const reply = (status: number, body: object, headers = {}) =>
      response
        .writeHead(status, { "content-type": "application/x-amz-json-1.0", ...headers })
        .end(JSON.stringify(body));
    try {
      const refusal = refusals.shift();
      if (refusal !== undefined) throw refusal;
      const answer = answers[name];
      assert.ok(answer !== undefined, `no answer to ${name}`);
      reply(200, answer(requestSchema.parse(JSON.parse(text))));
    } catch (error) {
      const [type, status] = error instanceof Refusal ? [error.name, error.status] : ["InternalServerException", 500];
      reply(status, { __type: type, message: String(error) }, { "x-amzn-errortype": type });
    }
  });
}

type Script = {
  readonly answer: (value: object) => object;
  readonly beforeStage: (stage: number) => Promise<void>;
};

/** The state machine's way, with its history as far as it is read. */
async function play(execution: Played, openStore: OpenStore, script: Script, jobs: Map<string, string>): Promise<void> {
  const deps = testDeps(openStore, { executeMerge: createInThreadExecutor(openStore), now: Date.now });
  const input = JSON.parse(execution.input);
  let run: string | null = null;
  try {
    const planned = await runStep(planStep, { ...input, shardBytes: 400 }, deps);
    run = planned.run;
    const output = JSON.stringify({ Payload: script.answer(planned) });
    execution.events.push({ id: 5, timestamp: 1, type: "TaskSucceeded", ...details("Succeeded", "lambda", output) });
    const ref = { yard: planned.yard, run };
    const unchanged = {
      outcome: "unchanged",
      model: planned.model,
      channel: planned.channel,
      version: planned.version,
    };
    let result: object = { ...ref, ...unchanged, current: null, files: 0, bytes: 0 };
    let outcome = "unchanged";
    if (planned.outcome === "planned") {
      for (const stage of planned.stages) {
        const JobId = `job-${execution.name}-${stage.index}`;
        execution.jobs.push(JobId);
        const submitted = JSON.stringify({ JobId });
        execution.events.push({
          id: 9,
          timestamp: 1,
          type: "TaskSubmitted",
          ...details("Submitted", "batch", submitted),
        });
        await script.beforeStage(stage.index);
        if (execution.status !== "RUNNING") return;
        const environment = { MERGEYARD_YARD: ref.yard, MERGEYARD_RUN: run, MERGEYARD_STAGE: String(stage.index) };
        const exitCode = await runJob(environment, { ...deps, log: () => undefined });
        jobs.set(JobId, exitCode === 0 ? "SUCCEEDED" : "FAILED");
        if (exitCode !== 0) throw Object.assign(new Error("{}"), { name: "States.TaskFailed" });
      }
      await runStep(checkStep, ref, deps);
      const published = await runStep(publishStep, { ...ref, plannedMs: planned.plannedMs }, deps);
      result = published;
      outcome = published.outcome;
    }
    const summary = await runStep(notifyStep, { ...ref, outcome }, deps);
    execution.output = JSON.stringify({ result: script.answer(result), summary });
    execution.status = "SUCCEEDED";
  } catch (error) {
    const { code } = describeError(error);
    const caught = { Error: code, Cause: error instanceof Error ? error.message : "" };
    await runStep(recordFailureStep, { yard: input.yard, run, state: "RunStageJob", error: caught }, deps);
    Object.assign(execution, { status: "FAILED", error: caught.Error, cause: caught.Cause });
  }
}

function details(kind: "Succeeded" | "Submitted", resourceType: string, output: string): object {
  return { [`task${kind}EventDetails`]: { resourceType, resource: "x", output } };
}
