/* A training of fixed work: logistic regression by gradient descent in one thread, on data from a fixed seed. It is one
   static program, so that it is the same wherever it runs.

   sameness <steps>               trains and prints the loss
   sameness calibrate <seconds>   prints the steps that take so long */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROWS 20000
#define COLUMNS 32

static double rows[ROWS][COLUMNS], labels[ROWS], weights[COLUMNS];
static unsigned long long state = 7;

static double uniform(void) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (double)(state >> 33) / (double)(1ULL << 31) - 0.5;
}

static double guess(const double *row) {
    double sum = 0;
    for (int c = 0; c < COLUMNS; c++) sum += row[c] * weights[c];
    return 1 / (1 + exp(-sum));
}

static double train(long steps) {
    memset(weights, 0, sizeof weights);
    for (long step = 0; step < steps; step++) {
        double slope[COLUMNS] = {0};
        for (int r = 0; r < ROWS; r++) {
            double error = guess(rows[r]) - labels[r];
            for (int c = 0; c < COLUMNS; c++) slope[c] += error * rows[r][c];
        }
        for (int c = 0; c < COLUMNS; c++) weights[c] -= 0.1 * slope[c] / ROWS;
    }
    double loss = 0;
    for (int r = 0; r < ROWS; r++) {
        double p = guess(rows[r]);
        loss -= labels[r] * log(p + 1e-9) + (1 - labels[r]) * log(1 - p + 1e-9);
    }
    return loss / ROWS;
}

int main(int count, char **words) {
    double truth[COLUMNS];
    for (int c = 0; c < COLUMNS; c++) truth[c] = uniform();
    for (int r = 0; r < ROWS; r++) {
        double sum = uniform();
        for (int c = 0; c < COLUMNS; c++) sum += (rows[r][c] = uniform()) * truth[c];
        labels[r] = sum > 0;
    }
    if (count == 3 && strcmp(words[1], "calibrate") == 0) {
        struct timespec began, ended;
        clock_gettime(CLOCK_MONOTONIC, &began);
        train(500);
        clock_gettime(CLOCK_MONOTONIC, &ended);
        double took = (double)(ended.tv_sec - began.tv_sec) + (double)(ended.tv_nsec - began.tv_nsec) / 1e9;
        printf("%ld\n", (long)(atof(words[2]) * 500 / took));
        return 0;
    }
    if (count != 2) return 2;
    printf("%.12f\n", train(atol(words[1])));
    return 0;
}
