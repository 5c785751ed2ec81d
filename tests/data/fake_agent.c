/* SPDX-License-Identifier: MIT */
/*
 * fake_agent.c - a probe that misbehaves on request, to see that the host side tells the ways apart.
 * A request line that contains the word does the deed; every other one is answered properly.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void write_file(const char *path, const char *text)
{
	FILE *file = fopen(path, "w");

	if (!file)
		exit(1);
	fputs(text, file);
	fclose(file);
}

int main(void)
{
	static char line[1 << 16];

	while (fgets(line, sizeof(line), stdin)) {
		if (strstr(line, "panic"))
			write_file("/proc/sysrq-trigger", "c");
		if (strstr(line, "hang"))
			for (;;)
				pause();
		if (strstr(line, "leave"))
			return 3;
		if (strstr(line, "endless"))
			for (;;)
				fputs("endless ", stdout);
		if (strstr(line, "flood"))
			for (int i = 0; i < 2000; i++)
				write_file("/dev/kmsg", "flood flood flood flood flood flood flood flood \033[2J\033]0;title\a\n");
		if (strstr(line, "garbage"))
			puts("\033[31mgarbage\377\376");
		else
			puts("{\"id\": 0, \"result\": {\"protocol\": 1, \"pid\": 1}}");
		fflush(stdout);
	}
	return 0;
}
