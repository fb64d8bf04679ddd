// What cdk-nag's rules for AWS solutions say of each environment: nothing that is not acknowledged with its reason, and
// no acknowledgement of what they no longer find.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Validations } from "aws-cdk-lib";
import { AwsSolutionsChecks } from "cdk-nag";
import type { IConstruct } from "constructs";
import * as z from "zod";
import { DEPLOYMENTS } from "./deployments.ts";

/** `rule path` of every finding under a construct that is not acknowledged. */
function findingsIn(scope: IConstruct): string[] {
  const { violations } = new AwsSolutionsChecks(scope).validateScope(scope);
  return violations.flatMap(({ ruleName, violatingResources }) =>
    violatingResources.map(({ constructPath }) => `${ruleName} ${constructPath}`),
  );
}

/** Calls the function while the rules look for acknowledgements where there are none. */
function ignoringAcknowledgements<T>(call: () => T): T {
  const name = "ACKNOWLEDGED_RULES_METADATA_KEY";
  const value = Validations[name];
  Object.defineProperty(Validations, name, { value: "nothing" });
  try {
    return call();
  } finally {
    Object.defineProperty(Validations, name, { value });
  }
}

type Acknowledged = { readonly rule: string; readonly reason: string; readonly path: string };

function acknowledgedIn(scope: IConstruct): Acknowledged[] {
  return scope.node.findAll().flatMap(({ node: { metadata, path } }) =>
    metadata
      .filter(({ type }) => type === Validations.ACKNOWLEDGED_RULES_METADATA_KEY)
      .flatMap(({ data }) => Object.entries(z.record(z.string(), z.string()).parse(data)))
      .map(([id, reason]) => ({ rule: id.replace(/^annotation::/i, ""), reason, path }))
      .filter(({ rule }) => rule.startsWith("AwsSolutions-")),
  );
}

test("cdk-nag finds nothing that is not acknowledged, and every acknowledgement has a finding and a reason", () => {
  for (const [name, { app }] of Object.entries(DEPLOYMENTS)) {
    assert.deepEqual(findingsIn(app), [], name);
    const acknowledged = acknowledgedIn(app);
    const findings = ignoringAcknowledgements(() => findingsIn(app));
    assert.ok(findings.length > 60 && findings.some((finding) => finding.startsWith("AwsSolutions-S1 ")), name);
    for (const { rule, reason, path } of acknowledged) {
      assert.ok(reason.length > 20, `${rule} of ${path} has no reason`);
      assert.ok(
        findings.some((finding) => finding === `${rule} ${path}` || finding.startsWith(`${rule} ${path}/`)),
        `${name}: ${rule} is acknowledged on ${path}, where cdk-nag does not find it`,
      );
    }
  }
});
