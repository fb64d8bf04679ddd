// The environments that the template tests look at, each synthesized once: as a small team deploys it, with everything
// switched on, and without any way out of the network.
import assert from "node:assert/strict";
import { rolesOf, type Statement } from "./policies.ts";
import { deploy } from "./templates.ts";

export const OTHER_ACCOUNT = "arn:aws:iam::999988887777:root";
export const SOURCE = "arn:aws:s3:::models-elsewhere";
export const SOURCE_KEY = "arn:aws:kms:eu-west-1:999988887777:key/their-key";

export const standard = deploy();
export const full = deploy({
  teams: [
    { name: "support", principals: [OTHER_ACCOUNT], upload: ["support-*"], read: ["support-*", "base"] },
    { name: "readers", principals: ["arn:aws:iam::111122223333:role/Serving"] },
  ],
  sources: [{ bucketArn: SOURCE, keyArn: SOURCE_KEY }],
  network: { egress: "nat", flowLogs: true },
  gpu: {},
  cpu: { architecture: "arm64", instances: ["c7gn", "c8gn"], spot: false },
  storage: { objectLock: true },
  triggers: { uploads: false, scheduleMinutes: null },
  alerts: { emails: ["team@example.com"], successes: true },
  vcpuHourUsd: 0.05,
});
export const closed = deploy({ network: { egress: "endpoints" }, keepData: false, signing: false });
export const DEPLOYMENTS = { standard, full, closed };

const roles = new Map(rolesOf(standard).map((role) => [role.id.replace(/Role[0-9A-F]{8}$/, ""), role.statements]));

/** Names of all roles of the standard environment. */
export const ROLE_NAMES: readonly string[] = [...roles.keys()].sort();

/** What a role of the standard environment may do. */
export function role(name: string): readonly Statement[] {
  const found = roles.get(name);
  assert.ok(found !== undefined, `no role ${name} among ${ROLE_NAMES.join(", ")}`);
  return found;
}
