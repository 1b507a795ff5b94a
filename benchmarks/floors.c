/* What the machine itself takes: an echo server with a welcome, and posix_spawn with two pipes. */

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static const char welcome[] = "Papa is home. Type \"help\" for commands.\n> ";

static void must(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(1);
	}
}

/* One connection after the other; what comes goes back. */
static void echo(int family, const struct sockaddr *where, socklen_t size)
{
	static char data[1 << 16];
	int listener = socket(family, SOCK_STREAM, 0);

	signal(SIGPIPE, SIG_IGN);
	must(bind(listener, where, size) == 0 && listen(listener, 64) == 0, "listen");
	for (;;) {
		ssize_t got;
		int peer = accept(listener, NULL, NULL);

		must(peer >= 0, "accept");
		if (write(peer, welcome, sizeof welcome - 1) < 0)
			perror("welcome");
		while ((got = read(peer, data, sizeof data)) > 0)
			for (ssize_t put = 0, more; put < got; put += more)
				if ((more = write(peer, data + put, got - put)) <= 0)
					break;
		close(peer);
	}
}

/* Start /bin/true so many times, one after the other, and read both its pipes to their end. */
static void spawn(int count)
{
	char *argv[] = {"/bin/true", NULL}, *envp[] = {NULL}, data[64];

	while (count--) {
		int pipes[2][2];
		pid_t pid;
		posix_spawn_file_actions_t actions;

		must(pipe2(pipes[0], O_CLOEXEC) == 0 && pipe2(pipes[1], O_CLOEXEC) == 0, "pipe2");
		posix_spawn_file_actions_init(&actions);
		for (int at = 0; at < 2; at++)
			posix_spawn_file_actions_adddup2(&actions, pipes[at][1], at + 1);
		must(posix_spawn(&pid, argv[0], &actions, NULL, argv, envp) == 0, "posix_spawn");
		posix_spawn_file_actions_destroy(&actions);
		for (int at = 0; at < 2; at++) {
			close(pipes[at][1]);
			while (read(pipes[at][0], data, sizeof data) > 0)
				;
			close(pipes[at][0]);
		}
		waitpid(pid, NULL, 0);
	}
}

int main(int count, char **words)
{
	if (count == 3 && !strcmp(words[1], "port")) {
		struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons(atoi(words[2]))};

		where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		echo(AF_INET, (struct sockaddr *)&where, sizeof where);
	} else if (count == 3 && !strcmp(words[1], "path")) {
		struct sockaddr_un where = {.sun_family = AF_UNIX};

		strncpy(where.sun_path, words[2], sizeof where.sun_path - 1);
		echo(AF_UNIX, (struct sockaddr *)&where, sizeof where);
	} else if (count == 3 && !strcmp(words[1], "spawn")) {
		spawn(atoi(words[2]));
		return 0;
	}
	fprintf(stderr, "usage: floors port PORT | path PATH | spawn COUNT\n");
	return 2;
}
