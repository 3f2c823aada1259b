/* The pause image's only program: it holds a pod's namespaces open until it is told to go, and reaps what is orphaned to it. */
#include <signal.h>
#include <stddef.h>
#include <sys/wait.h>

int main(void)
{
    /* As process 1 of a pod it gets no signal's default action, so signals are blocked and taken one at a time. */
    sigset_t awaited;
    sigemptyset(&awaited);
    sigaddset(&awaited, SIGTERM);
    sigaddset(&awaited, SIGINT);
    sigaddset(&awaited, SIGCHLD);
    sigprocmask(SIG_BLOCK, &awaited, NULL);

    for (;;) {
        int signal = 0;
        if (sigwait(&awaited, &signal) != 0)
            return 1;
        if (signal != SIGCHLD)
            return 0;
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
    }
}
