#!/usr/bin/env bash
# Libraries outside Python that the simulators need: software rendering (MUJOCO_GL=egl), and what LIBERO's OpenCV links to.
# Does nothing if they are present; installs them with apt-get as root; otherwise says what to install.
set -euo pipefail

packages=(libegl1 libopengl0 libgl1-mesa-dri libgl1 libglib2.0-0)

[[ $(uname -s) == Linux ]] || exit 0  # MuJoCo renders with the system's own OpenGL elsewhere

has_library() { ldconfig -p 2>/dev/null | grep -q "$1" || ls /usr/lib/*/"$1" /usr/lib64/"$1" >/dev/null 2>&1; }
has_driver() { ls /usr/lib/*/dri/*swrast* /usr/lib64/dri/*swrast* /usr/lib/*/libgallium* >/dev/null 2>&1 \
    || has_library libEGL_nvidia.so.0; }

renders() { { has_library libEGL.so.1 && has_library libOpenGL.so.0 && has_driver; } || has_library libOSMesa.so; }
links_opencv() { has_library libGL.so.1 && has_library libgthread-2.0.so.0; }

if renders && links_opencv; then
    exit 0
fi

if [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
    echo "installing ${packages[*]} (for the simulators)"
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${packages[@]}"; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        echo "error: apt-get could not install ${packages[*]}" >&2
        exit 1
    fi
    rm -f "$log"
else
    echo "note: the simulators need OpenGL in software and libraries of OpenCV, which are not installed here." >&2
    echo "      Debian or Ubuntu: sudo apt-get install ${packages[*]}" >&2
    echo "      Fedora: sudo dnf install mesa-libEGL libglvnd-opengl mesa-dri-drivers mesa-libGL glib2" >&2
fi
