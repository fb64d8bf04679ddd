// `mergeyard cancel EXECUTION`: ends an execution on AWS and its jobs. What is finished stays, and the same pipeline
// goes on from there when it is run again.
import type { Command } from "commander";
import { jsonOption, stateMachineOption } from "../arguments.ts";
import { printResult, type Terminal } from "../terminal.ts";
import { countOf } from "../text.ts";

export function addCancel(program: Command, terminal: Terminal): void {
  program
    .command("cancel")
    .description("stop an execution on AWS, and its jobs")
    .argument("<execution>", "its name or ARN, or the run; the beginning of a name is enough")
    .addOption(stateMachineOption())
    .addOption(jsonOption())
    .action(async (wanted: string, options: { stateMachine?: string; json?: boolean }) => {
      // The AWS SDK is loaded by who needs it.
      const [{ cancelExecution }, { openExecutions }] = await Promise.all([
        import("../../remote/cancel.ts"),
        import("../../remote/executions.ts"),
      ]);
      const { env, signal } = terminal;
      const executions = openExecutions(options.stateMachine ?? (env.MERGEYARD_STATE_MACHINE || ""), { env, signal });
      const cancelled = await cancelExecution(wanted, executions, { env, signal });
      printResult(terminal, options.json, cancelled, () => {
        const jobs = cancelled.jobs.length === 0 ? "" : `, and ${countOf(cancelled.jobs.length, "job")}`;
        return `stopped ${cancelled.execution}${jobs}; run the pipeline again to go on from what is done`;
      });
    });
}
