// Changing the configuration of an environment that is deployed already: stacks are updated in the order of their
// dependencies, so a stack that exports a value is asked to give it up while the others still import it, and cannot.
import assert from "node:assert/strict";
import { test } from "node:test";
import { closed, full, standard } from "./deployments.ts";
import { at, type Deployment } from "./templates.ts";

test("no switch takes away what another stack imports, but that of signing, whose order docs/deploy.md says", () => {
  const environments = [standard, full, closed];
  for (const before of environments) {
    for (const after of environments) {
      const stuck = [...before.imported].filter((name) => !after.exported.has(name));
      assert.deepEqual(
        stuck.filter((name) => !name.includes("SigningKey")),
        [],
      );
    }
  }
});

test("what a stack watches by name is there by that name", () => {
  for (const deployment of [standard, full, closed]) {
    const named = (type: string, name: string) => deployment.ofType(type).map(({ properties }) => properties[name]);
    const logs = named("AWS::Logs::LogGroup", "LogGroupName");
    const own = deployment.ofType("AWS::Logs::LogGroup").map(({ stack, id }) => `${stack}/${id}`);
    const read = named("AWS::Logs::MetricFilter", "LogGroupName");
    assert.deepEqual(
      read.filter((name) => !logs.includes(name) && !own.some((ref) => ref === name)),
      [],
    );
    const known = [...named("AWS::Lambda::Function", "FunctionName"), ...named("AWS::SQS::Queue", "QueueName")];
    const watched = dimensionsOf(deployment, ["FunctionName", "QueueName"]);
    assert.deepEqual(
      watched.filter((name) => !known.includes(name)),
      [],
    );
  }
});

function dimensionsOf(deployment: Deployment, names: readonly string[]) {
  const dimensions = deployment.ofType("AWS::CloudWatch::Alarm").map(({ properties }) => at(properties.Dimensions, 0));
  return dimensions.filter((each) => names.includes(String(at(each, "Name")))).map((each) => at(each, "Value"));
}
