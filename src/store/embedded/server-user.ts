import { stat } from 'node:fs/promises';
import { runCommand, type ServerUser } from './command.js';
import { EmbeddedPostgresError, USE_OWN_DATABASE, errorCode, errorMessage } from './errors.js';

/** A look-up or creation of a user is local and quick; a directory service that hangs is not waited for. */
const USER_COMMAND_TIMEOUT_MS = 10_000;

/** The users that run PostgreSQL for root, in order of preference. The last one is created if none exists. */
const USER_NAMES = ['postgres', 'baton'] as const;

/**
 * Decides whom PostgreSQL runs as. PostgreSQL refuses to run as root, so root hands it to somebody else; every
 * other user runs it as himself, which is the answer undefined.
 *
 * @param clusterDir an existing cluster belongs to its owner, whoever starts the server this time
 */
export async function chooseServerUser(clusterDir: string): Promise<ServerUser | undefined> {
  if (process.getuid?.() !== 0) return undefined;
  const owner = await ownerOf(clusterDir);
  if (owner !== undefined) return owner;
  for (const name of USER_NAMES) {
    const user = await lookUpUser(name);
    if (user !== undefined) return user;
  }
  return createSystemUser(USER_NAMES[1]);
}

/** A cluster of root's is no use to anybody: whoever is chosen instead, PostgreSQL will name the trouble. */
async function ownerOf(clusterDir: string): Promise<ServerUser | undefined> {
  try {
    const { uid, gid } = await stat(clusterDir);
    return uid === 0 ? undefined : { uid, gid, name: `user id ${uid}` };
  } catch {
    return undefined;
  }
}

/** `id` knows the users of every source that the system is set up with; /etc/passwd would not. */
async function lookUpUser(name: string): Promise<ServerUser | undefined> {
  const [uid, gid] = await Promise.all([idOf('-u', name), idOf('-g', name)]);
  return uid === undefined || gid === undefined || uid === 0 ? undefined : { uid, gid, name };
}

async function idOf(flag: '-u' | '-g', name: string): Promise<number | undefined> {
  const { code, output } = await runCommand('id', [flag, name], { timeoutMs: USER_COMMAND_TIMEOUT_MS });
  return code === 0 && /^\d+$/.test(output) ? Number(output) : undefined;
}

/** Makes a user without password, home and login shell, with whichever tool this system has. */
async function createSystemUser(name: string): Promise<ServerUser> {
  const tools: readonly (readonly string[])[] = [
    ['useradd', '--system', '--user-group', '--no-create-home', '--shell', '/bin/false', name],
    ['adduser', '-S', '-D', '-H', '-s', '/bin/false', name], // BusyBox
    ['adduser', '--system', '--group', '--no-create-home', '--shell', '/bin/false', name], // Debian's own
  ];
  const failures: string[] = [];
  for (const [tool = '', ...args] of tools) {
    failures.push(`${tool}: ${await tryTool(tool, args)}`);
    const user = await lookUpUser(name);
    if (user !== undefined) return user;
  }
  throw new EmbeddedPostgresError(
    'PostgreSQL does not run as root, there is no user "postgres" or "baton" to run it as, and "baton" could ' +
      `not be created (${failures.join('; ')}). Create one of them or start as an ordinary user. ${USE_OWN_DATABASE}`,
  );
}

async function tryTool(tool: string, args: readonly string[]): Promise<string> {
  try {
    const { code, output } = await runCommand(tool, args, { timeoutMs: USER_COMMAND_TIMEOUT_MS });
    return code === 0 ? 'reported success' : output || `exit code ${code}`;
  } catch (error) {
    return errorCode(error) === 'ENOENT' ? 'not installed' : errorMessage(error);
  }
}

/** Whether the user can really create files in the directory: tried, not guessed from modes. */
export async function canWriteIn(dir: string, user: ServerUser): Promise<boolean> {
  const script = 'cd -- "$1" && : > .baton-probe && rm -f .baton-probe';
  const result = await runCommand('/bin/sh', ['-c', script, 'sh', dir], {
    user,
    timeoutMs: USER_COMMAND_TIMEOUT_MS,
  });
  return result.code === 0;
}
