# A model of the step over n devices: fitted on one and two of them, tested on more. It measures
# nothing: it reads the runs of the studies shares and network, which come first.
#
# shellcheck shell=bash
