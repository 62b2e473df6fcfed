// cloud is what a provider adds to a cluster, for the one node of a test.
//
//   - A volume for each claim of its StorageClass: a directory below -dir, removed with the claim. It
//     is a "local" volume: the kubelet gives it to the pod's fsGroup, which it does not for hostPath.
//   - An address for each Service of type LoadBalancer: -addresses and a number of 50 to 249. It is in
//     the node's own network, where kube-proxy serves it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

// volumes makes directories below dir.
type volumes struct{ dir, node string }

func (v volumes) Provision(_ context.Context, o controller.ProvisionOptions) (*v1.PersistentVolume, controller.ProvisioningState, error) {
	path := filepath.Join(v.dir, o.PVC.Namespace+"_"+o.PVC.Name+"_"+o.PVName)
	if err := os.MkdirAll(path, 0o777); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	if err := os.Chmod(path, 0o777); err != nil { // past the umask
		return nil, controller.ProvisioningFinished, err
	}
	fs := v1.PersistentVolumeFilesystem
	return &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: o.PVName},
		Spec: v1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: *o.StorageClass.ReclaimPolicy,
			AccessModes:                   o.PVC.Spec.AccessModes,
			Capacity:                      v1.ResourceList{v1.ResourceStorage: o.PVC.Spec.Resources.Requests[v1.ResourceStorage]},
			VolumeMode:                    &fs,
			PersistentVolumeSource:        v1.PersistentVolumeSource{Local: &v1.LocalVolumeSource{Path: path}},
			NodeAffinity: &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{
				MatchExpressions: []v1.NodeSelectorRequirement{{Key: v1.LabelHostname, Operator: v1.NodeSelectorOpIn, Values: []string{v.node}}},
			}}}},
		},
	}, controller.ProvisioningFinished, nil
}

func (v volumes) Delete(_ context.Context, pv *v1.PersistentVolume) error {
	if pv.Spec.Local == nil || filepath.Dir(pv.Spec.Local.Path) != v.dir {
		return &controller.IgnoredError{Reason: "not of this provisioner"}
	}
	return os.RemoveAll(pv.Spec.Local.Path)
}

// loadBalancers gives every LoadBalancer Service an address of its own.
func loadBalancers(ctx context.Context, cs kubernetes.Interface, prefix string) {
	inf := informers.NewSharedInformerFactory(cs, time.Minute)
	sync := func(obj any) {
		svc, ok := obj.(*v1.Service)
		if !ok || svc.Spec.Type != v1.ServiceTypeLoadBalancer || len(svc.Status.LoadBalancer.Ingress) > 0 || svc.Spec.LoadBalancerClass != nil {
			return
		}
		used := map[string]bool{}
		all, err := cs.CoreV1().Services("").List(ctx, metav1.ListOptions{}) // not the cache: it may lag behind our own writes
		if err != nil {
			klog.Error(err)
			return
		}
		for _, s := range all.Items {
			for _, i := range s.Status.LoadBalancer.Ingress {
				used[i.IP] = true
			}
		}
		ip := svc.Spec.LoadBalancerIP
		for n := 50; ip == "" && n < 250; n++ {
			if a := fmt.Sprintf("%s%d", prefix, n); !used[a] {
				ip = a
			}
		}
		svc = svc.DeepCopy()
		svc.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: ip}}
		if _, err := cs.CoreV1().Services(svc.Namespace).UpdateStatus(ctx, svc, metav1.UpdateOptions{}); err != nil {
			klog.Error(err) // the next resync tries again
		}
	}
	_, _ = inf.Core().V1().Services().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: sync, UpdateFunc: func(_, o any) { sync(o) }})
	inf.Start(ctx.Done())
}

func main() {
	kc := flag.String("kubeconfig", "", "")
	dir := flag.String("dir", "", "where the volumes' folders go")
	node := flag.String("node", "", "the node's name")
	name := flag.String("name", "postrider.test/local", "the provisioner of the StorageClass")
	addresses := flag.String("addresses", "10.99.0.", "what addresses of Services begin with")
	flag.Parse()
	cfg, err := clientcmd.BuildConfigFromFlags("", *kc)
	if err != nil {
		klog.Fatal(err)
	}
	ctx := context.Background()
	cs := kubernetes.NewForConfigOrDie(cfg)
	loadBalancers(ctx, cs, *addresses)
	controller.NewProvisionController(ctx, cs, *name,
		volumes{filepath.Clean(*dir), *node}, controller.LeaderElection(false)).Run(ctx)
}
